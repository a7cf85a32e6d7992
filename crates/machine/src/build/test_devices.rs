//! The devices of `--test-devices`, see [`chipset::test_devices`].

use std::sync::{Arc, Mutex, Weak};

use chipset::test_devices::{
    DEBUG_EXIT, DEBUG_EXIT_PORTS, DebugExit, LINE_COUNT, LINES, LinePorts, MEMORY, MEMORY_SIZE, SCRATCH,
    SCRATCH_PORTS, SYNIC_PORT, Scratch, SynicError, SynicPort, SynicTest, TestMemory,
};
use counters::{Kind, Registry};
use enlightenment::{Enlightenment, EventPort, MessagePort};
use tlfs::HvStatus;

use super::chipset::Surroundings;
use crate::buses::Buses;

/// Bytes of the SynIC test port.
const SYNIC_PORTS: u16 = 4;

/// Puts all of them but the SynIC's port on the buses.
pub(super) fn add(around: &Surroundings<'_>) {
    let counters = around.counters("test-devices");
    let exit = DebugExit::new(Arc::clone(around.control) as Arc<_>);
    let lines = LinePorts::new(std::array::from_fn(|irq| around.interrupts.isa(irq as u8)));
    around.buses.add_ports(Arc::new(Mutex::new(exit)), &counters, &[(DEBUG_EXIT, DEBUG_EXIT_PORTS)]);
    around.buses.add_ports(Arc::new(Mutex::new(Scratch::default())), &counters, &[(SCRATCH, SCRATCH_PORTS)]);
    around.buses.add_ports(Arc::new(Mutex::new(lines)), &counters, &[(LINES, LINE_COUNT as u16)]);
    around.buses.add_memory(Arc::new(Mutex::new(TestMemory::new())), &counters, MEMORY, MEMORY_SIZE);
}

/// Puts the SynIC's port on the bus.
pub(super) fn add_synic(buses: &Buses, registry: &Registry, enlightenment: &Arc<Enlightenment>) {
    let counters = registry.device("test-synic", Kind::Emulated, || "on".to_owned());
    let port = SynicPort::new(Arc::new(TestSynic(Arc::downgrade(enlightenment))));
    buses.add_ports(Arc::new(Mutex::new(port)), &counters, &[(SYNIC_PORT, SYNIC_PORTS)]);
}

/// The interface as the test port sees it. The interface has the buses' processors, so the way back is weak.
struct TestSynic(Weak<Enlightenment>);

impl TestSynic {
    fn target(&self, vp: u8, sint: u8) -> Result<Arc<Enlightenment>, SynicError> {
        let enlightenment = self.0.upgrade().ok_or(SynicError::Target)?;
        let exists = u32::from(vp) < enlightenment.processor_count() && usize::from(sint) < tlfs::SINT_COUNT;
        exists.then_some(enlightenment).ok_or(SynicError::Target)
    }

    fn source(&self, vp: u8, sint: u8) -> Result<Source, SynicError> {
        self.target(vp, sint)?;
        Ok(Source { enlightenment: Weak::clone(&self.0), vp: vp.into(), sint })
    }
}

impl SynicTest for TestSynic {
    fn check(&self, vp: u8, sint: u8) -> Result<(), SynicError> {
        self.target(vp, sint).map(|_| ())
    }

    fn raise(&self, vp: u8, sint: u8) {
        if let Some(enlightenment) = self.0.upgrade() {
            // The port has checked that the source exists.
            enlightenment.raise_source(vp.into(), sint);
        }
    }

    fn connect_echo(&self, connection: u8, vp: u8, sint: u8) -> Result<(), SynicError> {
        let port = Arc::new(self.source(vp, sint)?);
        let made = self.target(vp, sint)?.connect_message(connection.into(), port);
        made.then_some(()).ok_or(SynicError::Connection)
    }

    fn connect_event(&self, connection: u8, vp: u8, sint: u8) -> Result<(), SynicError> {
        let port = Arc::new(Flag { source: self.source(vp, sint)?, flag: connection.into() });
        let made = self.target(vp, sint)?.connect_events(connection.into(), port);
        made.then_some(()).ok_or(SynicError::Connection)
    }

    fn disconnect(&self, connection: u8) -> Result<(), SynicError> {
        let enlightenment = self.0.upgrade().ok_or(SynicError::Connection)?;
        enlightenment.disconnect(connection.into()).then_some(()).ok_or(SynicError::Connection)
    }
}

/// A source of a processor. The interface holds it as a port.
struct Source {
    enlightenment: Weak<Enlightenment>,
    vp: u32,
    sint: u8,
}

impl MessagePort for Source {
    fn post(&self, _connection: u32, message_type: u32, payload: &[u8]) -> Result<(), HvStatus> {
        let enlightenment = self.enlightenment.upgrade().ok_or(HvStatus::INVALID_CONNECTION_ID)?;
        enlightenment.post_message(self.vp, self.sint, message_type, payload)
    }
}

/// An event flag of a source.
struct Flag {
    source: Source,
    flag: u16,
}

impl EventPort for Flag {
    fn signal(&self, _flag: u16) {
        if let Some(enlightenment) = self.source.enlightenment.upgrade() {
            // A flag that is set already stays so, and a guest without event page gets none.
            enlightenment.signal_event(self.source.vp, self.source.sint, self.flag);
        }
    }
}
