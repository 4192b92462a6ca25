//! Builds libslotbus and its native tests.
//!
//!   zig build                        builds the library for this machine (zig-out/lib) and the launcher (zig-out/bin)
//!   zig build test [-- part of name] runs the native tests
//!   zig build tsan [-- part of name] runs them under ThreadSanitizer
//!   zig build test-program           builds the native tests without running them (zig-out/bin), for -Dtarget=TRIPLE
//!   zig build cross                  builds the library for each of the `cross_targets` below
//!   zig build c-worker               builds examples/c-worker.c (zig-out/bin) and its library (zig-out/lib)
//!   -Dabi=N                          sets another protocol version, to test that it is refused

const std = @import("std");

const sources = [_][]const u8{
    "abi.c",         "directory.c", "name.c", "door.c",   "stats.c", "region.c", "attach.c", "stream.c", "wait.c", "slot_client.c",
    "slot_worker.c", "serve.c", "service.c", "sessions.c", "stop.c", "lock.c", "ring.c", "lease.c", "fleet.c", "fleet_file.c",
};

const test_sources = [_][]const u8{
    "main.c",        "pair.c",      "slot_test.c",   "region_test.c",
    "attach_test.c", "wait_test.c", "stress_test.c", "stream_test.c",
    "name_test.c",   "door_test.c",
    "fleet_test.c",  "ring_test.c", "lease_test.c",  "serve_test.c",
    "service_test.c",
    "members.c",   "assert_test.c", "sessions_test.c", "stop_test.c",
};

const flags = [_][]const u8{
    "-std=c11",                "-D_GNU_SOURCE", "-Wall",   "-Wextra",             "-Wpedantic",
    "-Wconversion",            "-Wshadow",      "-Werror", "-fvisibility=hidden", "-fno-strict-aliasing",
    "-fno-sanitize=undefined",
};

const cross_targets = [_][]const u8{
    "x86_64-linux-gnu.2.17", "x86_64-linux-musl",  "aarch64-linux-gnu.2.17",
    "aarch64-linux-musl",    "aarch64-macos-none", "x86_64-macos-none",
};

fn module(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    options: []const []const u8,
) *std.Build.Module {
    const mod = b.createModule(.{
        .target = target,
        .optimize = optimize,
        .link_libc = true,
        .strip = optimize == .ReleaseFast or optimize == .ReleaseSmall,
    });
    const all = std.mem.concat(b.allocator, []const u8, &.{ &flags, options }) catch @panic("OOM");
    mod.addCSourceFiles(.{ .root = b.path("csrc"), .files = &sources, .flags = all });
    const os = if (target.result.os.tag == .macos) "os_macos.c" else "os_linux.c";
    mod.addCSourceFile(.{ .file = b.path(b.fmt("csrc/{s}", .{os})), .flags = all });
    return mod;
}

fn library(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    options: []const []const u8,
) *std.Build.Step.Compile {
    // On macOS the library only reports that the system is not supported, so its size counts.
    const mod = module(b, target, if (target.result.os.tag == .macos) .ReleaseSmall else .ReleaseFast, options);
    return b.addLibrary(.{ .name = "slotbus", .linkage = .dynamic, .root_module = mod });
}

/// Builds the launcher of worker processes. Static, so that it runs with every libc. Linux only.
fn launcher(b: *std.Build, target: std.Build.ResolvedTarget) ?*std.Build.Step.Compile {
    if (target.result.os.tag != .linux) return null;
    const mod = b.createModule(.{
        .target = b.resolveTargetQuery(.{
            .cpu_arch = target.result.cpu.arch,
            .os_tag = .linux,
            .abi = .musl,
        }),
        .optimize = .ReleaseSmall,
        .link_libc = true,
        .strip = true,
    });
    mod.addCSourceFiles(.{ .root = b.path("csrc/launcher"), .files = &.{ "launcher.c", "name.c" }, .flags = &flags });
    return b.addExecutable(.{ .name = "slotbus-launcher", .linkage = .static, .root_module = mod });
}

fn testProgram(b: *std.Build, target: std.Build.ResolvedTarget, tsan: bool) *std.Build.Step.Compile {
    const mod = module(b, target, .ReleaseSafe, &.{"-DSB_ASSERT"});
    mod.sanitize_thread = tsan;
    mod.addIncludePath(b.path("csrc"));
    mod.addCSourceFiles(.{ .root = b.path("test/native"), .files = &test_sources, .flags = &(flags ++ .{"-DSB_ASSERT"}) });
    const name = if (tsan) "test-tsan" else "test-native";
    return b.addExecutable(.{ .name = name, .linkage = .dynamic, .root_module = mod });
}

fn tests(b: *std.Build, target: std.Build.ResolvedTarget, tsan: bool) *std.Build.Step.Run {
    const run = b.addRunArtifact(testProgram(b, target, tsan));
    run.has_side_effects = true;
    run.setEnvironmentVariable("TSAN_OPTIONS", "halt_on_error=1");
    if (b.args) |args| run.addArgs(args);
    return run;
}

/// Builds the example worker in C, which finds the library in ../lib.
fn cWorker(b: *std.Build, target: std.Build.ResolvedTarget) void {
    const lib = library(b, target, &.{});
    const mod = b.createModule(.{ .target = target, .optimize = .ReleaseSafe, .link_libc = true });
    mod.addCSourceFile(.{ .file = b.path("examples/c-worker.c"), .flags = &flags });
    mod.addIncludePath(b.path("csrc"));
    mod.addObjectFile(lib.getEmittedBin());
    mod.addRPathSpecial("$ORIGIN/../lib");
    const exe = b.addExecutable(.{ .name = "c-worker", .linkage = .dynamic, .root_module = mod });
    const step = b.step("c-worker", "Build the C worker of examples/");
    step.dependOn(&b.addInstallArtifact(exe, .{}).step);
    step.dependOn(&b.addInstallArtifact(lib, .{}).step);
}

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const abi = b.option(u32, "abi", "protocol version to build (default: the one in slotbus.h)");
    const options: []const []const u8 = if (abi) |n|
        b.dupeStrings(&.{b.fmt("-DSB_ABI_VERSION={d}", .{n})})
    else
        &.{};
    b.installArtifact(library(b, target, options));
    if (launcher(b, target)) |exe| b.installArtifact(exe);

    b.step("test", "Run the native tests").dependOn(&tests(b, target, false).step);
    b.step("tsan", "Run the native tests under ThreadSanitizer").dependOn(&tests(b, target, true).step);

    const program = b.addInstallArtifact(testProgram(b, target, false), .{});
    b.step("test-program", "Build the native tests without running them").dependOn(&program.step);
    cWorker(b, target);

    const cross = b.step("cross", "Build the library for every supported target");
    for (cross_targets) |triple| {
        const query = std.Target.Query.parse(.{ .arch_os_abi = triple }) catch @panic("bad triple");
        const resolved = b.resolveTargetQuery(query);
        const products = [_]?*std.Build.Step.Compile{ library(b, resolved, options), launcher(b, resolved) };
        for (products) |product| {
            const install = b.addInstallArtifact(product orelse continue, .{
                .dest_dir = .{ .override = .{ .custom = b.fmt("cross/{s}", .{triple}) } },
            });
            cross.dependOn(&install.step);
        }
    }
}
