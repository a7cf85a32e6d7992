//! Guests of a few instructions on this host's KVM, where it has one. The nested host runs these tests too
//! (`tests/guests/nested.rs`), and has all that they want.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use clock::VmClock;
use counters::Registry;
use guest_memory::{Attributes, GuestMemory, SHADOW, SHADOW_SEGMENTS, Shadow};
use interrupt::{EoiListener, ExternalInterrupts};
use processor::{
    BreakOn, Breakpoint, Bus, DebugControl, DebugStop, Error, Exit, HypercallContext, HypercallOutcome,
    HypervisorInterface, MsrOutcome, Partition, Processor, Segment, SegmentAttributes, StartRegisters,
};
use vm_memory::{Bytes, GuestAddress};

use crate::{KvmConfig, KvmHost, KvmPartition, sys};

/// Where the code is.
const CODE: u64 = 0x10_0000;
const MEMORY: u64 = 4 << 20;

/// A write to this port stops the machine.
const STOP: u16 = 0x20;

/// Ports and devices that note what is written, as port and value.
#[derive(Default)]
struct Notes(Mutex<Vec<(u16, u8)>>, OnceLock<Weak<KvmPartition>>);

impl Bus for Notes {
    fn port_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        self.0.lock().unwrap().push((port, data[0]));
        if port == STOP {
            self.1.get().and_then(Weak::upgrade).unwrap().stop();
        }
    }
    fn memory_read(&self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn memory_write(&self, _gpa: u64, _data: &[u8]) {}
}

/// No interrupts.
struct Quiet;

impl ExternalInterrupts for Quiet {
    fn pending(&self) -> bool {
        false
    }
    fn acknowledge(&self) -> u8 {
        0
    }
}

impl EoiListener for Quiet {
    fn end_of_interrupt(&self, _vector: u8) {}
}

/// An interface that answers nothing and counts deliveries of messages.
#[derive(Default)]
struct Deliveries(AtomicU32);

impl HypervisorInterface for Deliveries {
    fn cpuid(&self, _vp: u32, leaf: u32, _subleaf: u32) -> [u32; 4] {
        if leaf == 0x4000_0000 { [0x4000_0005, 0, 0, 0] } else { [0; 4] }
    }
    fn read_msr(&self, _vp: u32, _msr: u32) -> MsrOutcome<u64> {
        MsrOutcome::NotMine
    }
    fn write_msr(&self, _vp: u32, _msr: u32, _value: u64) -> MsrOutcome<()> {
        MsrOutcome::NotMine
    }
    fn hypercall(&self, _vp: u32, _context: &mut dyn HypercallContext) -> HypercallOutcome {
        HypercallOutcome::Done
    }
    fn reset_processor(&self, _vp: u32) {}
    fn deliver_messages(&self, _vp: u32) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn ran(&self, _vp: u32, _nanoseconds: u64) {}
}

/// This host's KVM, if it has one.
fn host() -> Option<Arc<KvmHost>> {
    KvmHost::open().ok().map(Arc::new)
}

/// The same, if breakpoints stop its guests: in the nested host they do not, for the SVM of QEMU's TCG knows neither
/// debug registers nor the interception of INT3.
fn host_with_breakpoints() -> Option<Arc<KvmHost>> {
    let nested = std::env::var("BODHI_PROCESSOR").is_ok_and(|processor| processor == "kvm");
    host().filter(|_| !nested)
}

struct Guest {
    partition: Arc<KvmPartition>,
    processor: Box<dyn Processor>,
    memory: GuestMemory,
    notes: Arc<Notes>,
}

fn config(host: &Arc<KvmHost>, processors: u32, hypervisor: bool) -> KvmConfig {
    KvmConfig {
        rom: None,
        shadow: Arc::default(),
        host: Arc::clone(host),
        processors,
        memory: guest_memory::allocate(MEMORY).unwrap().0,
        clock: VmClock::new(),
        hypervisor,
        registry: Arc::new(Registry::new()),
    }
}

impl Guest {
    /// A processor at `code`, in 32-bit protected mode without paging, not started.
    fn new(host: &Arc<KvmHost>, hypervisor: Option<Arc<Deliveries>>, code: &[u8]) -> Self {
        Self::of(config(host, 1, hypervisor.is_some()), hypervisor, code)
    }

    fn of(config: KvmConfig, hypervisor: Option<Arc<Deliveries>>, code: &[u8]) -> Self {
        let memory = config.memory.clone();
        memory.write_slice(code, GuestAddress(CODE)).unwrap();
        let partition = KvmPartition::new(config).unwrap();
        let notes = Arc::new(Notes::default());
        notes.1.set(Arc::downgrade(&partition)).unwrap();
        partition.attach_bus(notes.clone());
        partition.attach_controllers(Arc::new(Quiet), Arc::new(Quiet));
        if let Some(hypervisor) = hypervisor {
            partition.attach_hypervisor(hypervisor);
        }
        let processor = partition.processor(0).unwrap();
        Self { partition, processor, memory, notes }
    }

    fn started(host: &Arc<KvmHost>, code: &[u8]) -> Self {
        let mut guest = Self::new(host, None, code);
        guest.processor.start_at(&protected()).unwrap();
        guest
    }

    fn run_with(&mut self, step: bool, breakpoints: &[Breakpoint]) -> Exit {
        let control = DebugControl { step, breakpoints: breakpoints.to_vec() };
        self.processor.debug().unwrap().control(&control).unwrap();
        self.partition.resume();
        let exit = self.processor.run();
        self.partition.stop();
        exit
    }

    fn rip(&mut self) -> u64 {
        self.processor.debug().unwrap().registers().unwrap().system.rip
    }
}

fn protected() -> StartRegisters {
    let segment = |attributes| Segment {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        attributes: SegmentAttributes(attributes),
    };
    let data = segment(0xc093);
    StartRegisters {
        rip: CODE,
        rflags: 2,
        segments: [data, segment(0xc09b), data, data, data, data],
        tr: Segment { limit: 0x67, ..segment(0x8b) },
        ldtr: segment(1 << 16),
        cr0: 0x11,
        ..StartRegisters::default()
    }
}

fn code_at(address: u64) -> Breakpoint {
    Breakpoint { on: BreakOn::Code, address, length: 1 }
}

fn hit(point: Breakpoint) -> Exit {
    Exit::Debug(DebugStop::Breakpoint(point))
}

#[test]
fn a_start_that_kvm_refuses_is_an_error() {
    let Some(host) = host() else { return };
    let mut guest = Guest::new(&host, None, &[]);
    // Paging without protection.
    let refused = guest.processor.start_at(&StartRegisters { cr0: 1 << 31, ..protected() }).unwrap_err();
    assert_eq!(refused.to_string(), "giving a processor of KVM the registers of its start failed");
    assert!(matches!(refused, Error::Host { source, .. } if source.raw_os_error() == Some(libc::EINVAL)));
}

#[test]
fn an_entry_that_the_hosts_processor_refuses_is_told_with_the_state() {
    let Some(host) = host().filter(|host| host.recommended(false).is_ok()) else { return };
    let mut guest = Guest::new(&host, None, &[0xf4]);
    let put = |at: u64, value: u64| guest.memory.write_obj(value, GuestAddress(at)).unwrap();
    put(0x1000, 0x2003);
    put(0x2000, 0x83);
    let mut registers =
        StartRegisters { cr0: 0x8000_0011, cr3: 0x1000, cr4: 0x20, efer: 0x500, ..protected() };
    // A code segment of 64 and of 32 bits.
    registers.segments[1].attributes = SegmentAttributes(0xe09b);
    guest.processor.start_at(&registers).unwrap();
    let Exit::Failed { reason, state } = guest.processor.run() else { panic!("it runs") };
    assert!(reason.starts_with("the host's processor refuses the guest's state, reason 0x"), "{reason}");
    assert!(!reason.contains('\n'), "{reason}");
    assert!(state.contains("cr0 80000011"), "{state}");
}

#[test]
fn more_processors_than_kvm_has_are_refused_in_words() {
    let Some(host) = host() else { return };
    let most = host.max_processors() as u32;
    let refused = KvmPartition::new(config(&host, most + 1, false)).err().unwrap().to_string();
    assert_eq!(
        refused,
        format!("this host cannot run the KVM processor: KVM has at most {most} processors a machine")
    );
}

#[test]
fn memory_that_kvm_does_not_take_is_an_error() {
    let Some(host) = host() else { return };
    let guest = Guest::new(&host, None, &[]);
    let (other, _) = guest_memory::allocate(MEMORY).unwrap();
    // The slot has other memory, which is not to be exchanged under a guest.
    assert!(sys::map(&guest.partition.shared.vm, &sys::ram_slots(&other), 0).is_err());
}

#[test]
fn memory_that_is_added_is_the_guest_s_and_its_writes_are_noted() {
    let Some(host) = host() else { return };
    let more = MEMORY..2 * MEMORY;
    let layout = guest_memory::Layout { size: MEMORY, more: vec![more], rom: 0..0 };
    let memory = guest_memory::allocate_as(&layout).unwrap().0;
    // mov al, [0x400000]; out 0x10, al; mov byte [0x400000], 7; out 0x20, al; jmp back
    let code = [0xa0, 0, 0, 0x40, 0, 0xe6, 0x10, 0xc6, 5, 0, 0, 0x40, 0, 7, 0xe6, STOP as u8, 0xeb, 0xee];
    let mut guest = Guest::of(KvmConfig { memory, ..config(&host, 1, false) }, None, &code);
    guest.processor.start_at(&protected()).unwrap();
    let log = guest.partition.dirty_log().unwrap();
    let mut run = || {
        guest.partition.resume();
        assert_eq!(guest.processor.run(), Exit::Stopped);
    };
    run();
    run();
    log.start().unwrap();
    assert_eq!(guest.memory.grow(), Some(MEMORY..2 * MEMORY));
    guest.partition.memory_grown().unwrap();
    run();
    run();
    let read: Vec<_> =
        guest.notes.0.lock().unwrap().iter().filter(|note| note.0 == 0x10).map(|note| note.1).collect();
    assert_eq!(read, [0xff, 0xff, 0, 7]);
    let pages: Vec<_> = log.take().unwrap().iter().flat_map(|dirty| dirty.pages()).collect();
    assert_eq!(pages, [MEMORY]);
    log.stop().unwrap();
}

#[test]
fn pages_that_the_guest_writes_are_noted_until_they_are_taken() {
    let Some(host) = host() else { return };
    // inc dword [0x3000]; inc dword [0x9ffc]; out 0x20, al; jmp back
    let code = [0xff, 5, 0, 0x30, 0, 0, 0xff, 5, 0xfc, 0x9f, 0, 0, 0xe6, STOP as u8, 0xeb, 0xf0];
    let mut guest = Guest::started(&host, &code);
    let log = guest.partition.dirty_log().unwrap();
    let pages = || log.take().unwrap().iter().flat_map(|dirty| dirty.pages()).collect::<Vec<_>>();
    let mut run = || {
        guest.partition.resume();
        assert_eq!(guest.processor.run(), Exit::Stopped);
    };
    assert!(matches!(log.take(), Err(Error::NoDirtyLog)));
    run();
    log.start().unwrap();
    assert_eq!(pages(), [0; 0], "what was written before");
    run();
    assert_eq!(pages(), [0x3000, 0x9000]);
    assert_eq!(pages(), [0; 0], "once");
    run();
    assert_eq!(pages(), [0x3000, 0x9000], "and again after it was taken");
    run();
    log.start().unwrap();
    assert_eq!(pages(), [0; 0], "a new start forgets");
    log.stop().unwrap();
    assert!(matches!(log.take(), Err(Error::NoDirtyLog)));
    run();
    assert_eq!(guest.memory.read_obj::<u32>(GuestAddress(0x3000)).unwrap(), 5);
}

#[test]
fn a_guest_is_stepped_also_over_devices() {
    let Some(host) = host() else { return };
    // nop; out 0x10, al; inc eax; jmp back
    let mut guest = Guest::started(&host, &[0x90, 0xe6, 0x10, 0x40, 0xeb, 0xfa]);
    for round in 0..3_u8 {
        for address in [1, 3, 4, 0] {
            assert_eq!(guest.run_with(true, &[]), Exit::Debug(DebugStop::Step));
            assert_eq!(guest.rip(), CODE + address);
        }
        assert_eq!(guest.notes.0.lock().unwrap().last(), Some(&(0x10, round)));
    }
}

#[test]
fn a_guest_is_stepped_and_stopped_at_breakpoints_that_it_does_not_see() {
    let Some(host) = host_with_breakpoints() else { return };
    // again: mov al, [again + 10]; out 0x10, al; nop; nop; jmp again
    let code = [0xa0, 10, 0, 0x10, 0, 0xe6, 0x10, 0x90, 0x90, 0xeb, 0xf5];
    let mut guest = Guest::started(&host, &code);
    assert_eq!(guest.run_with(true, &[]), Exit::Debug(DebugStop::Step));
    assert_eq!(guest.rip(), CODE + 5);
    assert_eq!(guest.run_with(true, &[]), Exit::Debug(DebugStop::Step), "also by way of a device");
    assert_eq!(guest.rip(), CODE + 7);
    let points = [code_at(CODE + 7), code_at(CODE + 8), code_at(CODE + 9)];
    assert_eq!(guest.run_with(false, &points), hit(points[0]), "where it stands");
    assert_eq!(guest.run_with(true, &points), Exit::Debug(DebugStop::Step), "over what waits there");
    assert_eq!(guest.run_with(false, &points), hit(points[1]));
    assert_eq!(guest.run_with(false, &points[2..]), hit(points[2]));
    let mut bytes = [0; 11];
    guest.memory.read_slice(&mut bytes, GuestAddress(CODE)).unwrap();
    assert_eq!(bytes, code, "memory is the guest's while it is stopped");
    let (mov, nop) = (code_at(CODE), code_at(CODE + 7));
    assert_eq!(guest.run_with(false, &[mov, nop]), hit(mov));
    assert_eq!(guest.run_with(false, &[nop]), hit(nop));
    assert_eq!(*guest.notes.0.lock().unwrap(), [(0x10, 0xf5), (0x10, 0xf5)]);
}

#[test]
fn breakpoints_of_the_guest_are_given_back_to_it() {
    // An interpreting KVM does not know INT3.
    let Some(host) = host_with_breakpoints().filter(|host| host.recommended(false).is_ok()) else { return };
    // int3; hlt, and a handler: out 0x11, al; iretd
    let mut guest = Guest::started(&host, &[0xcc, 0x90, 0x90, 0xf4, 0xe6, 0x11, 0xcf]);
    let mut registers = guest.processor.debug().unwrap().registers().unwrap();
    let put = |at: u64, value: u64| guest.memory.write_obj(value, GuestAddress(at)).unwrap();
    let handler = CODE + 4;
    put(0x2000 + 3 * 8, (handler & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16) << 48);
    put(0x3010, 0x00cf_9b00_0000_ffff);
    registers.system.general[4] = 0x8000;
    registers.system.idtr = processor::DescriptorTable { base: 0x2000, limit: 0xff };
    registers.system.gdtr = processor::DescriptorTable { base: 0x3000, limit: 0x1f };
    guest.processor.debug().unwrap().set_registers(&registers).unwrap();
    // More than there are debug registers, so that KVM tells of every INT3.
    let points: Vec<_> = (0..5).map(|n| code_at(CODE + 0x100 + n)).chain([code_at(CODE + 2)]).collect();
    assert_eq!(guest.run_with(false, &points), hit(points[5]));
    assert_eq!(*guest.notes.0.lock().unwrap(), [(0x11, 0)], "its handler has run");
}

#[test]
fn registers_are_set_or_all_stay() {
    let Some(host) = host() else { return };
    let mut guest = Guest::started(&host, &[0x90, 0x90, 0xf4]);
    let debug = guest.processor.debug().unwrap();
    let before = debug.registers().unwrap();
    let mut new = before.clone();
    new.system.general[3] = 0x1234_5678;
    new.system.rip = CODE + 1;
    new.system.cr4 |= 1 << 2;
    new.system.segments[3].base = 0x5000;
    (new.cr2, new.xmm[5], new.st[2][0], new.mxcsr) = (0x77, 99, 5, 0x1f80);
    debug.set_registers(&new).unwrap();
    assert_eq!(debug.registers().unwrap(), new);
    let mut wrong = new.clone();
    wrong.system.general[3] = 1;
    wrong.system.cr4 |= 1 << 40;
    assert!(debug.set_registers(&wrong).is_err());
    assert_eq!(debug.registers().unwrap(), new);
    assert_eq!(guest.run_with(true, &[]), Exit::Debug(DebugStop::Step));
    assert_eq!(guest.rip(), CODE + 2);
}

#[test]
fn messages_are_delivered_by_the_processors_own_thread_soon() {
    let Some(host) = host().filter(|host| host.enlightens().is_ok()) else { return };
    let deliveries = Arc::new(Deliveries::default());
    // jmp to itself
    let mut guest = Guest::new(&host, Some(deliveries.clone()), &[0xeb, 0xfe]);
    guest.processor.start_at(&protected()).unwrap();
    let (partition, mut processor) = (guest.partition, guest.processor);
    let running = std::thread::spawn(move || processor.run());
    partition.synic().ask_delivery(0);
    while deliveries.0.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    partition.stop();
    assert_eq!(running.join().unwrap(), Exit::Stopped);
    assert_eq!(deliveries.0.load(Ordering::SeqCst), 1);
}

/// A guest that reads a byte where there is ROM and RAM, writes one there, and says what it has read.
fn shadowed(host: &Arc<KvmHost>, shadow: &Arc<Shadow>) -> Guest {
    // mov al, [0xf0000]; out 0x10, al; mov byte [0xf0000], 7; out 0x20, al; jmp back
    let code = [0xa0, 0, 0, 0xf, 0, 0xe6, 0x10, 0xc6, 5, 0, 0, 0xf, 0, 7, 0xe6, STOP as u8, 0xeb, 0xee];
    let mut guest =
        Guest::of(KvmConfig { shadow: Arc::clone(shadow), ..config(host, 1, false) }, None, &code);
    guest.processor.start_at(&protected()).unwrap();
    guest
}

#[test]
fn rom_and_ram_below_one_mib_are_what_the_guest_is_to_find() {
    let Some(host) = host() else { return };
    let shadow = Arc::new(Shadow::of_firmware(&[5; 0x2_0000]).unwrap());
    let mut guest = shadowed(&host, &shadow);
    let mut found = |read, write| {
        shadow.set([Attributes { read, write }; SHADOW_SEGMENTS]);
        guest.partition.shadow_changed().unwrap();
        guest.memory.write_obj(1_u8, GuestAddress(0xf_0000)).unwrap();
        guest.notes.0.lock().unwrap().clear();
        guest.partition.resume();
        assert_eq!(guest.processor.run(), Exit::Stopped);
        let notes = guest.notes.0.lock().unwrap();
        let read = notes.iter().find(|note| note.0 == 0x10).map(|note| note.1);
        (read, guest.memory.read_obj::<u8>(GuestAddress(0xf_0000)).unwrap())
    };
    // What the guest writes elsewhere than into RAM comes to the bus, which does nothing here.
    assert_eq!(found(false, false), (Some(5), 1));
    assert_eq!(found(false, true), (Some(5), 1));
    assert_eq!(found(true, false), (Some(1), 1));
    assert_eq!(found(true, true), (Some(1), 7));
    assert_eq!(found(true, false), (Some(1), 1));
    assert_eq!(found(false, false), (Some(5), 1));
}

#[test]
fn what_was_written_before_ram_became_rom_is_noted() {
    let Some(host) = host() else { return };
    let shadow = Arc::new(Shadow::default());
    let mut guest = shadowed(&host, &shadow);
    let log = guest.partition.dirty_log().unwrap();
    let mut run = || {
        guest.partition.resume();
        assert_eq!(guest.processor.run(), Exit::Stopped);
    };
    let pages = || {
        let all = log.take().unwrap();
        all.iter().flat_map(|dirty| dirty.pages()).filter(|page| SHADOW.contains(page)).collect::<Vec<_>>()
    };
    log.start().unwrap();
    run();
    assert_eq!(pages(), [0xf_0000]);
    run();
    shadow.set([Attributes { read: true, write: false }; SHADOW_SEGMENTS]);
    guest.partition.shadow_changed().unwrap();
    assert!(pages().contains(&0xf_0000));
    run();
    assert_eq!(pages(), [0; 0], "nothing is written any more");
    log.stop().unwrap();
}
