//! A virtual machine of KVM.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use clock::{Clock, VmClock};
use counters::Registry;
use guest_memory::{GuestMemory, Shadow};
use interrupt::{EoiListener, ExternalInterrupts, Line, Message, MessageTarget, ProcessorSignal};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_clock_data, kvm_enable_cap, kvm_msi};
use kvm_ioctls::VmFd;
use processor::{
    Bus, DirtyLog, Error, HypervisorInterface, Partition, Processor, StartState, SynicOffload, TlbFlush,
    VirtualProcessors,
};

use crate::debugger::Patches;
use crate::host::KvmHost;
use crate::routes::{IOAPIC_INPUTS, Routes};
use crate::slots::Slots;
use crate::sys::{self, Runner, SharedVcpu};
use crate::vcpu::{Abilities, Counts, KvmProcessor, TSC};
use crate::{cpuid, msr};

/// Where Intel's processors without unrestricted guest mode keep what real mode needs: four pages behind each other
/// that no RAM and no device has.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: usize = 0xfeff_d000;

/// Where local APICs take messages.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
/// Delivery modes of a message's data.
const MODE_NMI: u32 = 4 << 8;
const MODE_INIT: u32 = 5 << 8;
const MODE_STARTUP: u32 = 6 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;

/// What a [`KvmPartition`] is made of.
pub struct KvmConfig {
    /// The host's KVM.
    pub host: Arc<KvmHost>,
    /// How many processors.
    pub processors: u32,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// Memory that the guest can read, and whose writes go to the bus.
    pub rom: Option<GuestMemory>,
    /// What there is of RAM and ROM below 1 MiB.
    pub shadow: Arc<Shadow>,
    /// The machine's clock, from which the guest's TSC derives.
    pub clock: Arc<VmClock>,
    /// The hypervisor interface, if the guest is to see one.
    pub hypervisor: bool,
    /// Where exits are counted.
    pub registry: Arc<Registry>,
}

/// What the processors of a machine share.
pub(crate) struct Shared {
    // Before the memory that it uses.
    pub vm: VmFd,
    pub memory: GuestMemory,
    _rom: Option<GuestMemory>,
    pub slots: Slots,
    pub vcpus: Vec<Arc<SharedVcpu>>,
    pub stopped: AtomicBool,
    pub routes: Routes,
    pub bus: OnceLock<Arc<dyn Bus>>,
    pub external: OnceLock<Arc<dyn ExternalInterrupts>>,
    pub eoi_listener: OnceLock<Arc<dyn EoiListener>>,
    pub hypervisor: OnceLock<Arc<dyn HypervisorInterface>>,
    pub counts: Counts,
    pub patches: Patches,
    /// Whether interrupts can wait while a debugger steps.
    pub can_block_interrupts: bool,
    /// Whether INT3 of the guest is told. KVM that interprets does not know the instruction.
    pub traps_int3: bool,
}

/// A virtual machine of KVM.
pub struct KvmPartition {
    host: Arc<KvmHost>,
    clock: Arc<VmClock>,
    pub(crate) shared: Arc<Shared>,
    runners: Mutex<Vec<Option<Runner>>>,
    /// Nanoseconds of the kernel's clock while time is stopped.
    stopped_clock: Mutex<Option<u64>>,
}

pub(crate) fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { operation, source }
}

pub(crate) fn failed_errno(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| failed(operation)(error.into())
}

impl KvmPartition {
    /// A machine without bus, interrupt controllers and hypervisor interface.
    ///
    /// # Errors
    /// When KVM refuses something, or has no room for as many processors.
    pub fn new(config: KvmConfig) -> Result<Arc<Self>, Error> {
        let KvmConfig { host, processors, memory, rom, shadow, clock, hypervisor, registry } = config;
        if processors as usize > host.max_processors() {
            let reason = format!("KVM has at most {} processors a machine", host.max_processors());
            return Err(Error::Unsupported { processor: "KVM", reason });
        }
        let vm = host.kvm.create_vm().map_err(failed_errno("creating a virtual machine by KVM"))?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(failed_errno("placing KVM's identity map"))?;
        vm.set_tss_address(TASK_STATE).map_err(failed_errno("placing KVM's task state"))?;
        let split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IOAPIC_INPUTS.into(), 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        vm.enable_cap(&split).map_err(failed_errno("giving a virtual machine local APICs"))?;
        msr::filter(&vm, hypervisor).map_err(failed("setting the MSR filter"))?;
        let slots = Slots::new(&host, &vm, shadow)?;
        slots.map_all(&vm, &memory)?;
        if let Some(rom) = &rom {
            sys::map(&vm, &sys::rom_slots(rom), 0).map_err(failed("giving the firmware to KVM"))?;
        }

        let page_size = host.kvm.get_vcpu_mmap_size();
        let page_size = page_size.map_err(failed_errno("asking KVM for the size of a processor's page"))?;
        let mut vcpus = Vec::new();
        let mut runners = Vec::new();
        for index in 0..processors {
            let fd =
                vm.create_vcpu(index.into()).map_err(failed_errno("creating a virtual processor by KVM"))?;
            let shared = SharedVcpu::new(fd, page_size);
            let (vcpu, runner) = shared.map_err(failed("setting a signal's handler"))?;
            vcpus.push(vcpu);
            runners.push(Some(runner));
        }
        let shared = Shared {
            vm,
            memory,
            _rom: rom,
            slots,
            vcpus,
            stopped: AtomicBool::new(false),
            routes: Routes::default(),
            bus: OnceLock::new(),
            external: OnceLock::new(),
            eoi_listener: OnceLock::new(),
            hypervisor: OnceLock::new(),
            counts: Counts::new(&registry),
            patches: Patches::default(),
            can_block_interrupts: host.can_block_interrupts(),
            traps_int3: host.has_hardware(),
        };
        Ok(Arc::new(Self {
            host,
            clock,
            shared: Arc::new(shared),
            runners: Mutex::new(runners),
            stopped_clock: Mutex::new(None),
        }))
    }

    /// Attaches ports and devices. Call once, before [`Partition::processor`].
    pub fn attach_bus(&self, bus: Arc<dyn Bus>) {
        if self.shared.bus.set(bus).is_err() {
            tracing::error!("a bus has been attached already");
        }
    }

    /// Attaches the interrupt controllers outside the processors: the master 8259, to whose INTR belongs
    /// [`Self::interrupt_line`], and the IOAPIC. Call once, before [`Partition::processor`].
    pub fn attach_controllers(&self, external: Arc<dyn ExternalInterrupts>, ioapic: Arc<dyn EoiListener>) {
        if self.shared.external.set(external).is_err() || self.shared.eoi_listener.set(ioapic).is_err() {
            tracing::error!("interrupt controllers have been attached already");
        }
    }

    /// Attaches the hypervisor interface. Call at most once, before [`Partition::processor`].
    pub fn attach_hypervisor(&self, hypervisor: Arc<dyn HypervisorInterface>) {
        if self.shared.hypervisor.set(hypervisor).is_err() {
            tracing::error!("a hypervisor interface has been attached already");
        }
    }

    /// INTR of the master 8259, which leads to the boot processor.
    pub fn interrupt_line(&self) -> Arc<dyn Line> {
        Arc::new(InterruptLine(self.shared.vcpus.first().cloned()))
    }

    /// Where the messages of devices and of the IOAPIC go.
    pub fn message_target(&self) -> Arc<dyn MessageTarget> {
        Arc::clone(&self.shared) as Arc<_>
    }

    /// The parts of the synthetic interrupt controllers that the kernel has.
    pub fn synic(&self) -> Arc<dyn SynicOffload> {
        Arc::clone(&self.shared) as Arc<_>
    }

    /// Input `input` of the IOAPIC has been set up to send `message`, or nothing while it is masked.
    pub fn set_ioapic_input(&self, input: usize, message: Option<Message>) {
        self.shared.set_ioapic_input(input, message);
    }

    fn physical_bits(&self) -> u32 {
        let leaves = self.host.supported.as_slice();
        let sizes = leaves.iter().find(|leaf| leaf.function == 0x8000_0008);
        sizes.map_or(36, |leaf| leaf.eax & 0xff)
    }
}

impl Partition for KvmPartition {
    fn processor_count(&self) -> u32 {
        self.shared.vcpus.len() as u32
    }

    fn processor(&self, index: u32) -> Result<Box<dyn Processor>, Error> {
        let mut runners = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
        let runner = runners.get_mut(index as usize).and_then(Option::take).ok_or(Error::Index(index))?;
        let hypervisor = match self.shared.hypervisor.get() {
            Some(hypervisor) => cpuid::hypervisor_leaves(
                |leaf| hypervisor.cpuid(index, leaf, 0),
                |leaf| self.host.hypervisor_leaf(leaf),
            ),
            None => Vec::new(),
        };
        let leaves = cpuid::leaves(
            &self.host.supported,
            &cpuid::View {
                vp: index,
                processors: self.processor_count(),
                tsc_deadline: self.host.has_tsc_deadline(),
                hypervisor: &hypervisor,
            },
        );
        let shared = Arc::clone(&self.shared);
        let processor = KvmProcessor::new(
            index,
            runner,
            shared,
            &leaves,
            &Abilities {
                tsc_offset: self.clock.tsc_offset(),
                physical_bits: self.physical_bits(),
                can_be_debugged: self.host.has_debug(),
            },
        );
        Ok(Box::new(processor.map_err(failed("setting up a virtual processor of KVM"))?))
    }

    fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.vcpus.iter().for_each(|vcpu| vcpu.kick());
        self.shared.patches.remove(&self.shared.memory);
    }

    fn resume(&self) {
        self.shared.patches.insert(&self.shared.memory);
        self.shared.stopped.store(false, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.shared.vcpus.iter().for_each(|vcpu| vcpu.ask_reset());
    }

    fn signal(&self, index: u32) -> Arc<dyn ProcessorSignal> {
        Arc::new(Signal { shared: Arc::clone(&self.shared), index })
    }

    fn virtual_processors(&self) -> Arc<dyn VirtualProcessors> {
        Arc::clone(&self.shared) as Arc<_>
    }

    fn instructions(&self) -> Option<u64> {
        None
    }

    fn memory_grown(&self) -> Result<(), Error> {
        self.shared.slots.map_all(&self.shared.vm, &self.shared.memory)
    }

    /// Another processor that runs code of the range meanwhile may not find it. Firmware has one at work then.
    fn shadow_changed(&self) -> Result<(), Error> {
        self.shared.slots.steer(&self.shared.vm, &self.shared.memory)
    }

    fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>> {
        Some(Arc::clone(&self.shared) as Arc<_>)
    }

    /// TSC, reference time and synthetic timers are the kernel's.
    fn clock_stops(&self) -> bool {
        false
    }

    fn stop_time(&self) -> Result<(), Error> {
        let clock = self.shared.vm.get_clock().map_err(failed_errno("asking KVM for the time"))?;
        *self.stopped_clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock.clock);
        Ok(())
    }

    /// TSC first: KVM derives the reference TSC page from both.
    fn resume_time(&self) -> Result<(), Error> {
        let offset = self.clock.tsc_offset();
        for vcpu in &self.shared.vcpus {
            let set = vcpu
                .set_tsc_offset(offset)
                .and_then(|set| if set { Ok(()) } else { msr::set(vcpu.fd(), &[(TSC, self.clock.tsc())]) });
            set.map_err(failed("setting a processor's TSC"))?;
        }
        let stopped = self.stopped_clock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(clock) = stopped {
            let clock = kvm_clock_data { clock, ..kvm_clock_data::default() };
            self.shared.vm.set_clock(&clock).map_err(failed_errno("setting KVM's clock"))?;
        }
        Ok(())
    }

    fn reference_time(&self) -> Option<u64> {
        match self.shared.vm.get_clock() {
            Ok(clock) => Some(clock.clock / 100),
            Err(error) => {
                tracing::warn!(%error, "KVM does not tell the time");
                None
            }
        }
    }
}

impl Shared {
    fn set_ioapic_input(&self, input: usize, message: Option<Message>) {
        if let Err(error) = self.routes.set_input(&self.vm, input as u32, message) {
            tracing::error!(input, %error, "KVM does not take a route; level-triggered interrupts may stay away");
        }
    }
}

impl MessageTarget for Shared {
    fn send(&self, message: Message) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..kvm_msi::default()
        };
        // To nobody, or to a vector below 16: dropped, as on the bus.
        if let Err(error) = self.vm.signal_msi(msi) {
            tracing::debug!(?message, %error, "an interrupt message is lost");
        }
    }
}

impl SynicOffload for Shared {
    fn raise(&self, vp: u32, sint: u8) {
        if let Err(error) = self.routes.raise(&self.vm, vp, sint.into()) {
            tracing::error!(vp, sint, %error, "an interrupt of a synthetic source is lost");
        }
    }

    fn ask_delivery(&self, vp: u32) {
        if let Some(vcpu) = self.vcpus.get(vp as usize) {
            vcpu.ask_delivery();
        }
    }

    fn bind_signal(&self, connection: u32, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        sys::bind_eventfd(&self.vm, connection, eventfd)
    }

    fn unbind_signal(&self, connection: u32) {
        if let Err(error) = sys::unbind_eventfd(&self.vm, connection) {
            tracing::error!(connection, %error, "a signal stays connected");
        }
    }
}

/// KVM carries out by itself what the interface would ask of its processors: its own hypercalls flush and start, and
/// what it does not have is not offered.
impl VirtualProcessors for Shared {
    fn count(&self) -> u32 {
        self.vcpus.len() as u32
    }

    fn flush_tlb(&self, _caller: Option<u32>, targets: &[u32], _flush: &TlbFlush) {
        tracing::error!(
            ?targets,
            "a TLB flush was asked of user space, which has none: KVM's hypercalls do that"
        );
    }

    fn start(&self, _vp: u32, _state: &StartState) -> bool {
        false
    }

    fn is_running(&self, vp: u32) -> bool {
        self.vcpus.get(vp as usize).is_some_and(|vcpu| vcpu.has_thread())
    }

    fn yield_now(&self, _vp: u32) {
        std::thread::yield_now();
    }
}

/// INTR of the 8259s. Who raises it has the 8259s locked: this only makes the processor look.
struct InterruptLine(Option<Arc<SharedVcpu>>);

impl Line for InterruptLine {
    fn set(&self, high: bool) {
        if let Some(vcpu) = self.0.as_ref().filter(|_| high) {
            vcpu.kick();
        }
    }
}

/// Messages to one local APIC.
struct Signal {
    shared: Arc<Shared>,
    index: u32,
}

impl Signal {
    fn send(&self, data: u32) {
        let address = u64::from(MESSAGE_ADDRESS | (self.index & 0xff) << 12);
        self.shared.send(Message { address, data: data | LEVEL_ASSERT });
    }
}

impl ProcessorSignal for Signal {
    fn interrupt(&self) {
        if let Some(vcpu) = self.shared.vcpus.get(self.index as usize) {
            vcpu.kick();
        }
    }

    fn nmi(&self) {
        self.send(MODE_NMI);
    }

    fn init(&self) {
        self.send(MODE_INIT);
    }

    fn startup(&self, vector: u8) {
        self.send(MODE_STARTUP | u32::from(vector));
    }
}
