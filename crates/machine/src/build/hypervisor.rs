//! The hypervisor interface and the VMBus behind it.
//!
//! ```text
//! guest ─HvCallPostMessage, connections 1 and 4─▶ MessagePort ─▶ vmbus::Server
//! guest ─HvCallSignalEvent, a connection a channel─▶ EventPort ─▶ vmbus::Server ─▶ doorbell
//! guest ◀─SynIC messages and event flags─ Enlightenment ◀─ vmbus::Synic ◀─ vmbus::Server
//! ```

use std::arch::x86_64::__cpuid;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use chipset::apic;
use clock::{Clock, Timers};
use counters::Registry;
use enlightenment::{
    Config, CrashReport, CrashSink, Enlightenment, EventPort, Feature, Features, MessagePort, Vendor,
};
use guest_memory::{CodePages, GuestMemory};
use interrupt::LocalApic;
use processor::{Partition, SynicOffload};
use tlfs::HvStatus;
use vmbus::{Doorbell, Server, Settings, Synic, protocol};

use super::processors::Processors;
use super::wiring::Interrupts;
use crate::Error;
use crate::config::{Enlightenments, MachineConfig};
use crate::control::{Control, Failure, Wish};

/// What the interface is given.
pub(super) struct Surroundings<'a> {
    pub config: &'a MachineConfig,
    pub memory: &'a GuestMemory,
    pub code: &'a Arc<CodePages>,
    pub clock: &'a Arc<dyn Clock>,
    pub timers: &'a Arc<dyn Timers>,
    pub interrupts: &'a Interrupts,
    pub processors: &'a Processors,
    pub registry: &'a Registry,
    pub control: &'a Arc<Control>,
}

/// The interface, or none if nothing of it is offered.
pub(super) fn enlightenment(around: &Surroundings<'_>) -> Result<Option<Arc<Enlightenment>>, Error> {
    let mut features = around.config.features()?;
    if let Processors::Kvm(_, host) = around.processors {
        features = features.within(|leaf| host.hypervisor_leaf(leaf));
        if around.config.enlightenments == Enlightenments::Auto && !host.virtualizes_apics() {
            features = with_few_exits(features);
        }
    }
    if features.is_empty() {
        return Ok(None);
    }
    let control = Arc::clone(around.control);
    let config = Config {
        features,
        processors: around.config.cpus,
        vendor: host_vendor(),
        apic_frequency: apic::TIMER_FREQUENCY,
        memory: around.memory.clone(),
        clock: Arc::clone(around.clock),
        timers: Arc::clone(around.timers),
        crash: Arc::new(Crash(Arc::clone(around.control))),
        reset: Arc::new(move || control.wish(Wish::Reset)),
    };
    let enlightenment = Enlightenment::new(config, around.registry);
    match around.processors {
        Processors::Soft(partition) => {
            let apics: Vec<_> = around.interrupts.apics.iter().flat_map(|bus| bus.apics()).collect();
            for (vp, apic) in (0..).zip(&apics) {
                if let Some(assist) = enlightenment.apic_assist(vp) {
                    apic.connect_assist(assist);
                }
            }
            let apics = apics.into_iter().map(|apic| Arc::clone(apic) as Arc<dyn LocalApic>).collect();
            enlightenment.attach(apics, partition.virtual_processors())?;
        }
        Processors::Kvm(partition, _) => {
            enlightenment.attach_offload(partition.synic(), partition.virtual_processors());
        }
    }
    Ok(Some(enlightenment))
}

/// What suits a processor that leaves the guest at each end of an interrupt: sources that end theirs by themselves, and
/// timers that interrupt by one of them. Direct timers do not, and Linux takes them if it has the choice.
fn with_few_exits(features: Features) -> Features {
    features.without(Feature::DirectTimers).without(Feature::DeprecateAutoEoi)
}

/// The guest calls by the instruction of the processor that it sees, which is the host's.
fn host_vendor() -> Vendor {
    let leaf = __cpuid(0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    if name == b"AuthenticAMD" || name == b"HygonGenuine" { Vendor::Amd } else { Vendor::Intel }
}

/// The VMBus behind `enlightenment`, without devices as yet.
pub(super) fn vmbus(around: &Surroundings<'_>, enlightenment: &Arc<Enlightenment>) -> Server {
    let offload = match around.processors {
        Processors::Kvm(partition, _) => Some(Arc::downgrade(&partition.synic())),
        Processors::Soft(_) => None,
    };
    let server = Server::new(Settings {
        memory: around.memory.clone(),
        code: Arc::clone(around.code),
        synic: Arc::new(Delivery { enlightenment: Arc::downgrade(enlightenment), offload }),
        processors: around.config.cpus,
    });
    let again = server.clone();
    enlightenment.on_message_room(Box::new(move || again.retry_messages()));
    let messages = Arc::new(Messages(server.clone()));
    for connection in [protocol::MESSAGE_CONNECTION_ID, protocol::MESSAGE_CONNECTION_ID_5] {
        enlightenment.connect_message(connection, Arc::clone(&messages) as Arc<_>);
    }
    for connection in protocol::CHANNEL_CONNECTION_IDS {
        let events = Events { server: server.clone(), connection };
        enlightenment.connect_events(connection, Arc::new(events));
    }
    server
}

/// From the bus to the guest. The interface has the bus; the bus refers to it weakly.
struct Delivery {
    enlightenment: Weak<Enlightenment>,
    /// What the processor has of the interface itself.
    offload: Option<Weak<dyn SynicOffload>>,
}

impl Delivery {
    fn offload(&self) -> Option<Arc<dyn SynicOffload>> {
        self.offload.as_ref().and_then(Weak::upgrade)
    }
}

impl Synic for Delivery {
    fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> bool {
        let Some(enlightenment) = self.enlightenment.upgrade() else { return true };
        match enlightenment.post_message(vp, sint, message_type, payload) {
            Ok(()) => true,
            // The guest makes room by reading, and the bus is told.
            Err(HvStatus::INSUFFICIENT_BUFFERS) => false,
            Err(status) => {
                tracing::debug!(vp, sint, ?status, "a message to a guest that takes none is lost");
                true
            }
        }
    }

    fn signal_event(&self, vp: u32, sint: u8, flag: u16) {
        if let Some(enlightenment) = self.enlightenment.upgrade() {
            enlightenment.signal_event(vp, sint, flag);
        }
    }

    fn bind_signal(&self, connection: u32, doorbell: &Doorbell) {
        if let Some(offload) = self.offload()
            && let Err(error) = offload.bind_signal(connection, doorbell.as_fd())
        {
            tracing::warn!(connection, %error, "every signal of a channel leaves the kernel");
        }
    }

    fn unbind_signal(&self, connection: u32) {
        if let Some(offload) = self.offload() {
            offload.unbind_signal(connection);
        }
    }
}

/// The guest's messages to the bus.
struct Messages(Server);

impl MessagePort for Messages {
    fn post(&self, _connection: u32, _message_type: u32, payload: &[u8]) -> Result<(), HvStatus> {
        self.0.message(payload).map_err(|_busy| HvStatus::INSUFFICIENT_BUFFERS)
    }
}

/// The guest's signals to one channel.
struct Events {
    server: Server,
    connection: u32,
}

impl EventPort for Events {
    fn signal(&self, flag: u16) {
        // A channel that is not open hears nothing.
        let _ = self.server.event(self.connection, flag);
    }
}

/// What the guest says when it crashes.
struct Crash(Arc<Control>);

impl CrashSink for Crash {
    fn crashed(&self, report: &CrashReport) {
        self.0.fail(Failure::Crash(describe(report)));
    }
}

/// A crash report as text: the parameters, and the log if there is one.
fn describe(report: &CrashReport) -> String {
    let [p0, p1, p2, p3, p4] = report.parameters;
    let mut text = format!("processor {}, parameters {p0:#x} {p1:#x} {p2:#x} {p3:#x} {p4:#x}", report.vp);
    if let Some(log) = &report.message {
        text.push_str("; its log ends:\n");
        text.push_str(log.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_told_with_its_parameters_and_log() {
        let report =
            CrashReport { vp: 1, parameters: [1, 2, 3, 4, 0xff], message: Some("panic!\n".to_owned()) };
        assert_eq!(describe(&report), "processor 1, parameters 0x1 0x2 0x3 0x4 0xff; its log ends:\npanic!");
    }
}
