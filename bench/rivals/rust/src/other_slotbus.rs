//! The project of the same name in Rust, with its default options. Callers are tasks of one Tokio thread.

use crate::measure::{self, bodies, Course, Order, Round};
use crate::{Failure, Wishes};
use slotbus::types::RequestMeta;
use slotbus::{SlotBus, SlotBusConfig, SlotWorker};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

fn config(name: &str) -> SlotBusConfig {
    SlotBusConfig::builder().name(name).build()
}

/// The client creates the bus, so the worker waits for it.
pub fn serve(name: &str, wishes: &Wishes) -> Result<(), Failure> {
    let mut opened = SlotWorker::open(config(name));
    while opened.is_err() && !wishes.is_over() {
        std::thread::sleep(Duration::from_millis(1));
        opened = SlotWorker::open(config(name));
    }
    let worker = Arc::new(opened?);
    worker.clone().start_receive_loop(|worker, slot, request| {
        let done = worker.send_response(slot, 200, request.body.to_vec(), "application/octet-stream", vec![]);
        done.expect("the response is sent");
    });
    while !wishes.is_over() {
        std::thread::sleep(Duration::from_millis(50));
    }
    worker.stop();
    Ok(())
}

pub struct Client {
    bus: Rc<SlotBus>,
    runtime: Runtime,
}

impl Client {
    pub fn open(name: &str) -> Result<Client, Failure> {
        let bus = SlotBus::create(config(name))?;
        bus.start_response_watcher();
        Ok(Client { bus: Rc::new(bus), runtime: tokio::runtime::Builder::new_current_thread().build()? })
    }
}

fn meta() -> RequestMeta {
    let path = "/echo".to_string();
    RequestMeta { route_pattern: path.clone(), path, path_params: vec![], query: None, headers: vec![] }
}

/// Sends one request and records its response.
async fn request(bus: &SlotBus, course: &RefCell<Course>, body: &mut [u8]) -> Result<(), Failure> {
    let id = course.borrow_mut().stamp(body).to_string(); // two open requests must not have the same id
    let before = Instant::now();
    let response = bus.dispatch(&id, "POST", &meta(), body)?.await?;
    course.borrow_mut().record(before, body, &response.body)
}

/// A caller's requests, until the round is over.
async fn caller(bus: Rc<SlotBus>, course: Rc<RefCell<Course>>, mut body: Vec<u8>) -> Result<(), String> {
    while !course.borrow().is_over {
        request(&bus, &course, &mut body).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl measure::Client for Client {
    fn measure(&mut self, order: &Order) -> Result<Round, Failure> {
        let course = Rc::new(RefCell::new(Course::new(order)));
        let bodies = bodies(order.bytes, order.in_flight);
        if order.sparse > 0 {
            let mut body = bodies[0].clone();
            for _ in 0..order.sparse {
                let tick = Instant::now() + Duration::from_millis(1);
                self.runtime.block_on(request(&self.bus, &course, &mut body))?;
                std::thread::sleep(tick.saturating_duration_since(Instant::now()));
            }
        } else {
            let local = LocalSet::new();
            let start = |body| local.spawn_local(caller(self.bus.clone(), course.clone(), body));
            let callers: Vec<_> = bodies.into_iter().map(start).collect();
            local.block_on(&self.runtime, async {
                for one in callers {
                    one.await.map_err(|error| error.to_string())??;
                }
                Ok::<(), Failure>(())
            })?;
            drop(local);
        }
        Ok(Rc::into_inner(course).expect("no caller is left").into_inner().round())
    }
}
