//! The other process of a rival in Rust, and its client, which measures by the rules of ../../measure.ts:
//! `rivals server SYSTEM NAME` returns every body until its input ends;
//! `rivals client SYSTEM NAME` takes orders as lines, and writes the latencies of each as binary numbers.

mod iceoryx;
mod measure;
mod other_slotbus;

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

pub type Failure = Box<dyn std::error::Error>;

/// What the parent wants of a server.
#[derive(Default)]
pub struct Wishes {
    /// The parent has closed this process's input, as it does when it ends.
    pub over: AtomicBool,
    /// Another system is measured: a server that polls must not take a processor from it.
    pub resting: AtomicBool,
}

impl Wishes {
    /// Reads the lines `rest` and `go` in a thread. Each of them, and the end of the input, unparks the main thread.
    fn read() -> Arc<Wishes> {
        let wishes = Arc::new(Wishes::default());
        let (told, main) = (wishes.clone(), std::thread::current());
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                told.resting.store(line == "rest", Ordering::Relaxed);
                main.unpark();
            }
            told.over.store(true, Ordering::Relaxed);
            main.unpark();
        });
        wishes
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn serve(system: &str, name: &str) -> Result<(), Failure> {
    let wishes = Wishes::read();
    match system {
        "iceoryx2-polling" => iceoryx::serve(name, false, &wishes),
        "iceoryx2-events" => iceoryx::serve(name, true, &wishes),
        "slotbus-rust" => other_slotbus::serve(name, &wishes),
        _ => Err(format!("unknown system {system}").into()),
    }
}

fn send_round(round: &measure::Round) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(&(round.latencies.len() as f64).to_le_bytes())?;
    out.write_all(&round.seconds.to_le_bytes())?;
    let bytes: Vec<u8> = round.latencies.iter().flat_map(|ns| ns.to_le_bytes()).collect();
    out.write_all(&bytes)?;
    Ok(out.flush()?)
}

fn obey(system: &str, name: &str) -> Result<(), Failure> {
    let mut client: Box<dyn measure::Client> = match system {
        "iceoryx2-polling" => Box::new(iceoryx::Client::open(name, false)?),
        "iceoryx2-events" => Box::new(iceoryx::Client::open(name, true)?),
        "slotbus-rust" => Box::new(other_slotbus::Client::open(name)?),
        _ => return Err(format!("unknown system {system}").into()),
    };
    for line in std::io::stdin().lock().lines() {
        send_round(&client.measure(&measure::Order::parse(&line?)?)?)?;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", system, name] => serve(system, name),
        ["client", system, name] => obey(system, name),
        _ => Err("usage: rivals server|client SYSTEM NAME".into()),
    }
}
