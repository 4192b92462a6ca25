//! Rounds as in ../../measure.ts: every body is stamped with a new number, and every byte of its response is checked.

use crate::Failure;
use std::time::{Duration, Instant};

/// What to measure. A sparse round sends one request per millisecond.
pub struct Order {
    pub bytes: usize,
    pub in_flight: usize,
    pub lead_in: Duration,
    pub time: Duration,
    pub minimum: usize,
    /// Number of requests of a sparse round; 0 for any other round.
    pub sparse: usize,
}

impl Order {
    pub fn parse(line: &str) -> Result<Order, Failure> {
        let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [bytes, in_flight, lead_in_ms, ms, minimum, sparse] = numbers[..] else {
            return Err(format!("an order has six numbers, not \"{line}\"").into());
        };
        Ok(Order {
            bytes: bytes as usize,
            in_flight: in_flight as usize,
            lead_in: Duration::from_millis(lead_in_ms),
            time: Duration::from_millis(ms),
            minimum: minimum as usize,
            sparse: sparse as usize,
        })
    }
}

/// Latencies in ns, and the duration of what was counted.
pub struct Round {
    pub latencies: Vec<f64>,
    pub seconds: f64,
}

/// A client that runs the orders of the bench.
pub trait Client {
    fn measure(&mut self, order: &Order) -> Result<Round, Failure>;
}

/// What the callers of a round share.
pub struct Course {
    from: Instant,
    end: Instant,
    start: Instant,
    minimum: usize,
    number: u32,
    pub is_over: bool,
    latencies: Vec<f64>,
}

impl Course {
    pub fn new(order: &Order) -> Course {
        let now = Instant::now();
        let from = now + order.lead_in;
        let (end, minimum) = (from + order.time, order.minimum);
        let latencies = Vec::with_capacity(1 << 20);
        Course { from, end, start: now, minimum, number: 0, is_over: false, latencies }
    }

    /// Writes a new number into a body, so that the response to another request is noticed.
    pub fn stamp(&mut self, body: &mut [u8]) -> u32 {
        self.number = self.number.wrapping_add(1);
        body[..4].copy_from_slice(&self.number.to_le_bytes());
        self.number
    }

    pub fn record(&mut self, before: Instant, body: &[u8], reply: &[u8]) -> Result<(), Failure> {
        let after = Instant::now();
        if reply != body {
            return Err(format!("a response of {} bytes differs from its request", reply.len()).into());
        }
        if after < self.from {
            self.start = after;
        } else {
            self.latencies.push((after - before).as_nanos() as f64);
        }
        self.is_over |= after > self.end && self.latencies.len() >= self.minimum;
        Ok(())
    }

    pub fn round(self) -> Round {
        Round { seconds: self.start.elapsed().as_secs_f64(), latencies: self.latencies }
    }
}

/// Bodies like those of ../../measure.ts, one per caller.
pub fn bodies(bytes: usize, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| (0..bytes).map(|at| (at * 31 + i) as u8).collect()).collect()
}

/// Requests of several callers ("lanes") on one thread.
pub trait Lanes {
    fn send(&mut self, lane: usize, body: &[u8]) -> Result<(), Failure>;
    /// Makes sent requests known to the server, if that needs a call.
    fn flush(&mut self) -> Result<(), Failure>;
    /// Calls `with` for the response of this lane, if it has arrived.
    fn receive(&mut self, lane: usize, with: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<bool, Failure>;
    /// Waits until a response may have arrived.
    fn wait(&mut self) -> Result<(), Failure>;
}

/// Waits for the response of one of the lanes, and records it.
fn next(lanes: &mut dyn Lanes, order: &Order) -> Result<Round, Failure> {
    let mut bodies = bodies(order.bytes, order.in_flight);
    let mut course = Course::new(order);
    let mut sent = vec![None; order.in_flight];
    let mut open = 0;
    for lane in 0..order.in_flight {
        course.stamp(&mut bodies[lane]);
        sent[lane] = Some(Instant::now());
        lanes.send(lane, &bodies[lane])?;
        open += 1;
    }
    lanes.flush()?;
    while open > 0 {
        let (mut seen, mut is_new) = (false, false);
        for lane in 0..order.in_flight {
            let Some(before) = sent[lane] else { continue };
            let body = &mut bodies[lane];
            if !lanes.receive(lane, &mut |reply| course.record(before, body, reply))? {
                continue;
            }
            seen = true;
            if course.is_over {
                sent[lane] = None;
                open -= 1;
                continue;
            }
            course.stamp(body);
            sent[lane] = Some(Instant::now());
            lanes.send(lane, body)?;
            is_new = true;
        }
        if is_new {
            lanes.flush()?;
        }
        if !seen {
            lanes.wait()?;
        }
    }
    Ok(course.round())
}

/// One request per millisecond, so that both sides may sleep in between.
fn sparse(lanes: &mut dyn Lanes, order: &Order) -> Result<Round, Failure> {
    let mut body = bodies(order.bytes, 1).remove(0);
    let mut course = Course::new(order);
    for _ in 0..order.sparse {
        let tick = Instant::now() + Duration::from_millis(1);
        course.stamp(&mut body);
        let before = Instant::now();
        lanes.send(0, &body)?;
        lanes.flush()?;
        while !lanes.receive(0, &mut |reply| course.record(before, &body, reply))? {
            lanes.wait()?;
        }
        std::thread::sleep(tick.saturating_duration_since(Instant::now()));
    }
    Ok(course.round())
}

pub fn run(lanes: &mut dyn Lanes, order: &Order) -> Result<Round, Failure> {
    if order.sparse > 0 { sparse(lanes, order) } else { next(lanes, order) }
}
