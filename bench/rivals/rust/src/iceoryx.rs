//! iceoryx2 request-response: both sides poll in a loop, or each wakes the other with an event service.

use crate::measure::{self, Lanes, Order, Round};
use crate::{Failure, Wishes};
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client as RequestPort;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::request_response::PortFactory as RequestService;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LANES: usize = 32;
const MOST_BYTES: usize = 1 << 20;
/// Longest wait for an event, so that the end of the program is noticed.
const WAIT: Duration = Duration::from_millis(100);

type Ipc = ipc::Service;
type Requests = RequestService<Ipc, [u8], (), [u8], ()>;

/// A node with files of its own, which the bench removes: their names begin with `name`, and a folder of that name has the rest.
fn node(name: &str) -> Result<Node<Ipc>, Failure> {
    let mut config = Config::default();
    config.global.prefix = format!("{name}_").as_str().try_into()?;
    config.global.set_root_path(&format!("/tmp/{name}").as_str().try_into()?);
    let builder = NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled);
    Ok(builder.config(&config).create::<Ipc>()?)
}

fn requests(node: &Node<Ipc>, name: &str) -> Result<Requests, Failure> {
    let builder = node.service_builder(&name.try_into()?).request_response::<[u8], [u8]>();
    Ok(builder.max_active_requests_per_client(LANES).open_or_create()?)
}

/// The two event services: one wakes the server, the other one the client.
struct Bell {
    rings: Notifier<Ipc>,
    hears: Listener<Ipc>,
}

impl Bell {
    fn open(node: &Node<Ipc>, name: &str, own: &str, other: &str) -> Result<Bell, Failure> {
        let event = |side: &str| -> Result<_, Failure> {
            Ok(node.service_builder(&format!("{name}/{side}").as_str().try_into()?).event().open_or_create()?)
        };
        let hears = event(own)?.listener_builder().create()?;
        Ok(Bell { hears, rings: event(other)?.notifier_builder().create()? })
    }

    fn ring(&self) -> Result<(), Failure> {
        self.rings.notify()?;
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Failure> {
        self.hears.timed_wait(|_| {}, WAIT)?;
        Ok(())
    }
}

pub fn serve(name: &str, has_events: bool, wishes: &Wishes) -> Result<(), Failure> {
    let node = node(name)?;
    let mut bell = if has_events { Some(Bell::open(&node, name, "server", "client")?) } else { None };
    let server = requests(&node, name)?.server_builder().initial_max_slice_len(MOST_BYTES).create()?;
    while !wishes.is_over() {
        if wishes.resting.load(Ordering::Relaxed) {
            std::thread::park();
            continue;
        }
        let mut seen = false;
        while let Some(request) = server.receive()? {
            let body = request.payload();
            request.loan_slice_uninit(body.len())?.write_from_slice(body).send()?;
            seen = true;
        }
        match &mut bell {
            Some(bell) if seen => bell.ring()?,
            Some(bell) => bell.wait()?,
            None => std::hint::spin_loop(),
        }
    }
    Ok(())
}

/// Fields are dropped in this order: the node last.
pub struct Client {
    pending: Vec<Option<PendingResponse<Ipc, [u8], (), [u8], ()>>>,
    port: RequestPort<Ipc, [u8], (), [u8], ()>,
    bell: Option<Bell>,
    _service: Requests,
    _node: Node<Ipc>,
}

impl Client {
    pub fn open(name: &str, has_events: bool) -> Result<Client, Failure> {
        let node = node(name)?;
        let service = requests(&node, name)?;
        while service.dynamic_config().number_of_servers() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let bell = if has_events { Some(Bell::open(&node, name, "client", "server")?) } else { None };
        let port = service.client_builder().initial_max_slice_len(MOST_BYTES).create()?;
        Ok(Client { pending: (0..LANES).map(|_| None).collect(), port, bell, _service: service, _node: node })
    }
}

impl Lanes for Client {
    fn send(&mut self, lane: usize, body: &[u8]) -> Result<(), Failure> {
        self.pending[lane] = None;
        let request = self.port.loan_slice_uninit(body.len())?.write_from_slice(body);
        self.pending[lane] = Some(request.send()?);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.bell.as_ref().map_or(Ok(()), Bell::ring)
    }

    fn receive(&mut self, lane: usize, with: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<bool, Failure> {
        let Some(pending) = &self.pending[lane] else { return Ok(false) };
        let Some(response) = pending.receive()? else { return Ok(false) };
        with(response.payload())?;
        Ok(true)
    }

    fn wait(&mut self) -> Result<(), Failure> {
        match &mut self.bell {
            Some(bell) => bell.wait(),
            None => Ok(std::hint::spin_loop()),
        }
    }
}

impl measure::Client for Client {
    fn measure(&mut self, order: &Order) -> Result<Round, Failure> {
        measure::run(self, order)
    }
}
