//! The emulated network adapters of a board.
//!
//! ```text
//! guest ─ access ─▶ Dec21140 ── Wire ──▶ Port ─▶ switch
//!                       ▲                  │
//!                       └──── event loop ◀─┘
//! ```
//!
//! What a guest sends goes to the switch on the thread of its processor. What comes is brought by an event loop of the
//! adapter's own. Locks: an adapter's is held while a frame is given to the switch, whose locks nobody holds while he
//! wants an adapter's.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use chipset::dec21140::{self, Dec21140, REGIONS, Settings, Wire};
use chipset::pci::FunctionAddress;
use counters::{Kind, Registry};
use doorbell::Doorbell;
use guest_memory::GuestMemory;
use network::{Frame, Mac, Port, Queue};
use rustix::event::{PollFd, PollFlags};

use super::chipset::{Chipset, Surroundings};
use super::lock;
use super::wiring::counted;
use crate::Error;
use crate::networks::Networks;

/// Frames that are brought before others may have the adapter.
const BATCH: usize = 64;

/// The adapters of a board. Dropping it ends their event loops.
pub(super) struct LegacyAdapters(Vec<EventLoop>);

struct EventLoop {
    address: FunctionAddress,
    stop: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

impl LegacyAdapters {
    /// Puts them on the PCI bus, connected to their networks.
    pub fn new(
        chipset: &Chipset,
        around: &Surroundings<'_>,
        memory: &GuestMemory,
        networks: &Networks,
    ) -> Result<Self, Error> {
        let adapters = networks.connect_legacy()?.into_iter().zip(0..).map(|((number, port, mac), place)| {
            let address = dec21140::address(place);
            let name = format!("network{number}");
            let adapter = registered(around.registry, &name, &port, |counters| {
                let line = around.interrupts.router().line(address, 0);
                let settings = Settings {
                    mac: mac.0,
                    memory: memory.clone(),
                    clock: Arc::clone(around.clock),
                    line: counted(line, &counters),
                    wire: Box::new(Plugged(Arc::clone(&port))),
                    counters: counters.clone(),
                };
                let adapter = Dec21140::new(settings, around.timers);
                let [ports, registers] = REGIONS;
                around.buses.add_port_region(address, ports, Arc::clone(&adapter) as Arc<_>, &counters);
                around.buses.add_memory_region(address, registers, Arc::clone(&adapter) as Arc<_>, &counters);
                adapter
            });
            chipset.add_function(address, Arc::clone(&adapter) as Arc<_>);
            EventLoop::start(name, address, adapter, port)
        });
        adapters.collect::<Result<_, _>>().map(Self)
    }

    /// Where they are on the PCI bus.
    pub fn addresses(&self) -> impl Iterator<Item = FunctionAddress> {
        self.0.iter().map(|adapter| adapter.address)
    }
}

/// An adapter with its row in the device table.
fn registered(
    registry: &Registry,
    name: &str,
    port: &Arc<Port>,
    make: impl FnOnce(counters::DeviceCounters) -> Arc<Mutex<Dec21140>>,
) -> Arc<Mutex<Dec21140>> {
    let port = Arc::clone(port);
    let made: Result<_, std::convert::Infallible> = registry.owner(
        name,
        Kind::Emulated,
        move |adapter: &Mutex<Dec21140>| state(&lock(adapter), &port),
        |counters| Ok(make(counters)),
    );
    let Ok(adapter) = made;
    adapter
}

fn state(adapter: &Dec21140, port: &Port) -> String {
    let interface = if adapter.is_started() { "interface up" } else { "interface down" };
    format!("{interface}; {}{}", Mac(adapter.mac()), port.remarks(adapter.dropped()))
}

/// A cable to a switch.
struct Plugged(Arc<Port>);

impl Wire for Plugged {
    fn send(&self, frame: Vec<u8>) {
        self.0.send(Frame::new(frame));
    }
}

impl EventLoop {
    fn start(
        name: String,
        address: FunctionAddress,
        adapter: Arc<Mutex<Dec21140>>,
        port: Arc<Port>,
    ) -> Result<Self, Error> {
        let stop = Arc::new(Doorbell::new().map_err(Error::Network)?);
        let stopping = Arc::clone(&stop);
        let work = move || {
            if let Err(error) = run(&adapter, &port, &stopping) {
                tracing::error!(%error, "event loop of a network adapter fails");
            }
        };
        let thread = thread::Builder::new().name(name).spawn(work).map_err(Error::Network)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stop.ring();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a network adapter has panicked");
        }
    }
}

/// Brings what has come, until it is told to stop.
fn run(adapter: &Mutex<Dec21140>, port: &Port, stop: &Doorbell) -> io::Result<()> {
    let mut frames = Vec::new();
    let mut link = true;
    loop {
        if stop.answer() {
            return Ok(());
        }
        port.doorbell().answer();
        let mut taken = 0;
        while taken < BATCH
            && let Some(frame) = port.receive()
        {
            taken += 1;
            // The chip has no room for what others have left to be done.
            let finished = frame.finish();
            if finished.is_empty() {
                port.dropped().count();
            }
            frames.extend(finished);
        }
        let up = port.link();
        if !frames.is_empty() || up != link {
            let mut adapter = lock(adapter);
            if std::mem::replace(&mut link, up) != up {
                adapter.set_link(up);
            }
            frames.drain(..).for_each(|frame| adapter.receive(frame.data));
        }
        if taken < BATCH {
            let mut fds = [PollFd::new(port.doorbell(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            // What the port does not let through yet is left there.
            doorbell::wait(&mut fds, port.queue(0).and_then(Queue::pause))?;
        }
    }
}
