/** Draws the result of a suite as bars, in an SVG or PNG. */

import { CommandError } from "../src/cli/usage.ts";
import { type Machine, machineLines, number } from "./report.ts";

export interface ChartBar {
  readonly label: string;
  readonly value: number;
}

/** One measurement, with a bar for each contestant. */
export interface Panel {
  readonly title: string;
  readonly unit: string;
  readonly better: "less" | "more";
  readonly bars: readonly ChartBar[];
}

const WIDTH = 760;
const LABELS = 170;
const VALUES = 110;
const ROW = 24;
const BAR = 16;
const HEAD = 86;
const PANEL_HEAD = 44;
const GAP = 16;
const OWN = "#0f766e";
const RIVAL = "#94a3b8";
const FONT = "font-family=\"'DejaVu Sans', 'Helvetica Neue', Arial, sans-serif\"";

/** The first bar of a panel is slotbus. Bars are linear from 0; each panel has its own scale. */
export function svgChart(title: string, machine: Machine, panels: readonly Panel[]): string {
  const parts: string[] = [];
  let y = HEAD;
  for (const panel of panels) {
    parts.push(panelSvg(panel, y));
    y += PANEL_HEAD + panel.bars.length * ROW + GAP;
  }
  const [where = "", how = ""] = machineLines(machine).split("\n");
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" ${FONT} role="img">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${y}" fill="#ffffff"/>`,
    text(GAP, 30, title, 'font-size="18" font-weight="bold" fill="#0f172a"'),
    text(GAP, 50, where, 'font-size="12" fill="#475569"'),
    text(GAP, 66, how, 'font-size="12" fill="#475569"'),
    ...parts,
    "</svg>\n",
  ].join("\n");
}

function panelSvg({ title, unit, better, bars }: Panel, top: number): string {
  const longest = Math.max(...bars.map(({ value }) => value), Number.MIN_VALUE);
  const scale = (WIDTH - LABELS - VALUES - 2 * GAP) / longest;
  const rows = bars.map(({ label, value }, index) => {
    const y = top + PANEL_HEAD + index * ROW;
    const length = Math.max(1, value * scale);
    const isOwn = index === 0;
    const weight = isOwn ? 'font-weight="bold"' : "";
    return [
      text(LABELS - 8, y + 13, label, `font-size="13" text-anchor="end" fill="#0f172a" ${weight}`),
      `<rect x="${LABELS}" y="${y}" width="${length.toFixed(1)}" height="${BAR}" rx="2" fill="${isOwn ? OWN : RIVAL}"/>`,
      text(LABELS + length + 6, y + 13, `${number(value)} ${unit}`, `font-size="12" fill="#0f172a" ${weight}`),
    ].join("\n");
  });
  const goal = better === "less" ? "less is better" : "more is better";
  return [
    text(GAP, top + 24, title, 'font-size="14" font-weight="bold" fill="#0f172a"'),
    text(WIDTH - GAP, top + 24, goal, 'font-size="11" text-anchor="end" fill="#64748b"'),
    ...rows,
  ].join("\n");
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes.trim()}>${escaped(content)}</text>`;
}

function escaped(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Renders an SVG at twice its size with the system's fonts. @throws {CommandError} without `@resvg/resvg-js`. */
export async function pngOf(svg: string): Promise<Uint8Array> {
  const { Resvg } = await import("@resvg/resvg-js").catch(() => {
    throw new CommandError(
      "--png needs the package @resvg/resvg-js. Install it (`bun add -d @resvg/resvg-js`), or use --svg.",
    );
  });
  return new Resvg(svg, { fitTo: { mode: "zoom", value: 2 } }).render().asPng();
}

/** Writes the chart to the given files. */
export async function writeCharts(svg: string, files: { svg?: string; png?: string }): Promise<void> {
  try {
    if (files.svg !== undefined) await Bun.write(files.svg, svg);
    if (files.png !== undefined) await Bun.write(files.png, await pngOf(svg));
  } catch (error) {
    throw error instanceof CommandError
      ? error
      : new CommandError(`Cannot write the chart: ${(error as Error).message}.`);
  }
}
