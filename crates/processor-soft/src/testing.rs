//! A processor for unit tests: on a small memory, with a bus that remembers and an APIC that can be told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clock::VmClock;
use guest_memory::{CodePages, GuestMemory, Shadow};
use iced_x86::code_asm::CodeAssembler;
use interrupt::{GeneralProtection, LocalApic, Trigger};
use processor::{Bus, SegmentAttributes};
use vm_memory::{Bytes, GuestAddress};

use crate::partition::{SoftConfig, SoftPartition, Tier};
use crate::registers::{Seg, cr0, cr4, efer};
use crate::vcpu::Vcpu;

/// Ports and memory that nobody claims; writes are remembered.
#[derive(Default)]
pub struct FakeBus {
    pub port_writes: Mutex<Vec<(u16, Vec<u8>)>>,
    pub memory_writes: Mutex<Vec<(u64, Vec<u8>)>>,
    /// Port, size and bytes of accesses to ports that came as one.
    pub port_strings: Mutex<Vec<(u16, usize, usize)>>,
}

impl Bus for FakeBus {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        self.port_writes.lock().unwrap().push((port, data.to_vec()));
    }
    fn port_read_string(&self, port: u16, size: usize, data: &mut [u8]) {
        self.port_strings.lock().unwrap().push((port, size, data.len()));
        data.fill(port as u8);
    }
    fn memory_read(&self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn memory_write(&self, gpa: u64, data: &[u8]) {
        self.memory_writes.lock().unwrap().push((gpa, data.to_vec()));
    }
}

/// An APIC that delivers the vectors that a test puts into it.
pub struct FakeApic {
    pub base: AtomicU64,
    pub vectors: Mutex<Vec<u8>>,
    pub cr8: AtomicU64,
}

impl FakeApic {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            base: AtomicU64::new(0xfee0_0900),
            vectors: Mutex::default(),
            cr8: AtomicU64::new(0),
        })
    }
}

impl LocalApic for FakeApic {
    fn base(&self) -> u64 {
        self.base.load(Ordering::SeqCst)
    }
    fn set_base(&self, value: u64) -> Result<(), GeneralProtection> {
        self.base.store(value, Ordering::SeqCst);
        Ok(())
    }
    fn read(&self, offset: u32) -> u32 {
        offset | 0xaa00_0000
    }
    fn write(&self, _offset: u32, _value: u32) {}
    fn read_msr(&self, _msr: u32) -> Result<u64, GeneralProtection> {
        Err(GeneralProtection)
    }
    fn write_msr(&self, _msr: u32, _value: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }
    fn tsc_deadline(&self) -> u64 {
        0
    }
    fn set_tsc_deadline(&self, _value: u64) {}
    fn cr8(&self) -> u8 {
        self.cr8.load(Ordering::SeqCst) as u8
    }
    fn set_cr8(&self, priority: u8) {
        self.cr8.store(u64::from(priority), Ordering::SeqCst);
    }
    fn pending(&self) -> bool {
        !self.vectors.lock().unwrap().is_empty()
    }
    fn acknowledge(&self) -> Option<u8> {
        self.vectors.lock().unwrap().pop()
    }
    fn request(&self, vector: u8, _trigger: Trigger) {
        self.vectors.lock().unwrap().push(vector);
    }
    fn end_of_interrupt(&self) {}
    fn task_priority(&self) -> u8 {
        0
    }
    fn set_task_priority(&self, _value: u8) {}
    fn interrupt_command(&self) -> u64 {
        0
    }
    fn set_interrupt_command(&self, _value: u64) {}
    fn id(&self) -> u32 {
        0
    }
    fn set_lint(&self, _pin: usize, _high: bool) {}
    fn init(&self) {}
    fn reset(&self) {}
}

/// A partition of `processors` on `memory_size` bytes of RAM, with fakes around it.
pub fn partition(
    processors: u32,
    memory_size: u64,
) -> (Arc<SoftPartition>, Arc<FakeBus>, Vec<Arc<FakeApic>>) {
    partition_with_rom(processors, memory_size, 0, &[])
}

/// As [`partition`], with the pages `bytes` as ROM at `base`, if there are any.
pub fn partition_with_rom(
    processors: u32,
    memory_size: u64,
    base: u64,
    bytes: &[u8],
) -> (Arc<SoftPartition>, Arc<FakeBus>, Vec<Arc<FakeApic>>) {
    let place = base..base + bytes.len() as u64;
    let (memory, code) =
        guest_memory::allocate_as(&guest_memory::Layout { size: memory_size, more: Vec::new(), rom: place })
            .unwrap();
    let rom = (!bytes.is_empty()).then(|| guest_memory::rom(base, bytes).unwrap());
    surrounded(processors, memory, code, rom, &Arc::default())
}

/// As [`partition`], with what `shadow` has below 1 MiB.
pub fn partition_with_shadow(
    processors: u32,
    memory_size: u64,
    shadow: &Arc<Shadow>,
) -> (Arc<SoftPartition>, Arc<FakeBus>, Vec<Arc<FakeApic>>) {
    let (memory, code) = guest_memory::allocate(memory_size).unwrap();
    surrounded(processors, memory, code, None, shadow)
}

fn surrounded(
    processors: u32,
    memory: GuestMemory,
    code: Arc<CodePages>,
    rom: Option<GuestMemory>,
    shadow: &Arc<Shadow>,
) -> (Arc<SoftPartition>, Arc<FakeBus>, Vec<Arc<FakeApic>>) {
    let partition = SoftPartition::new(SoftConfig {
        processors,
        memory,
        rom,
        shadow: Arc::clone(shadow),
        code,
        clock: VmClock::new(),
        tier: Tier::Interpreter,
        inspection: Arc::default(),
        registry: Arc::default(),
    });
    let bus = Arc::new(FakeBus::default());
    partition.attach_bus(bus.clone());
    let apics: Vec<_> = (0..processors).map(|_| FakeApic::new()).collect();
    for (index, apic) in apics.iter().enumerate() {
        partition.attach_apic(index as u32, apic.clone());
    }
    (partition, bus, apics)
}

impl Vcpu {
    /// A processor after reset (real mode), on `memory_size` bytes of RAM.
    pub fn for_test(memory_size: u64) -> Self {
        Self::for_test_with(memory_size, &Arc::default())
    }

    /// The same, with what `shadow` has below 1 MiB.
    fn for_test_with(memory_size: u64, shadow: &Arc<Shadow>) -> Self {
        let (partition, bus, apics) = partition_with_shadow(1, memory_size, shadow);
        let shared = partition.shared().clone();
        Vcpu::new(0, shared, bus, apics[0].clone())
    }

    /// A processor in 64-bit mode at privilege level 0: at least 4 MiB of RAM of which the first 2 GiB of
    /// linear addresses are mapped one to one, by tables at 0x1000–0x3fff. RIP is 0x10000, RSP 0x20000.
    pub fn for_test_64(memory_size: u64) -> Self {
        Self::for_test_64_with(memory_size, &Arc::default())
    }

    /// The same, with what `shadow` has below 1 MiB.
    pub fn for_test_64_with(memory_size: u64, shadow: &Arc<Shadow>) -> Self {
        let mut vcpu = Self::for_test_with(memory_size, shadow);
        vcpu.poke(0x1000, &0x2007_u64.to_le_bytes());
        vcpu.poke(0x2000, &0x3007_u64.to_le_bytes());
        vcpu.poke(0x2008, &0x4000_0087_u64.to_le_bytes());
        for index in 0..512_u64 {
            vcpu.poke(0x3000 + index * 8, &(index << 21 | 0x87).to_le_bytes());
        }
        vcpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP | cr0::MP;
        vcpu.cr3 = 0x1000;
        vcpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        vcpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        for (index, segment) in vcpu.segments.iter_mut().enumerate().take(6) {
            let code = index == Seg::Cs as usize;
            segment.selector = if code { 0x10 } else { 0x18 };
            segment.base = 0;
            segment.limit = u32::MAX;
            segment.attributes = SegmentAttributes(if code { 0xa09b } else { 0xc093 });
        }
        vcpu.rip = 0x1_0000;
        vcpu.regs[crate::registers::gpr::RSP] = 0x2_0000;
        vcpu.mmu.switch(0, vcpu.cr3, false);
        vcpu.paging_changed();
        vcpu.mode_changed();
        vcpu
    }

    /// Writes guest RAM as a device does.
    pub fn poke(&self, gpa: u64, data: &[u8]) {
        self.shared.memory.write_slice(data, GuestAddress(gpa)).unwrap();
    }

    /// Reads guest RAM as a device does.
    pub fn peek<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut data = [0; N];
        self.shared.memory.read_slice(&mut data, GuestAddress(gpa)).unwrap();
        data
    }
}

/// Machine code of `program` at `address`.
pub fn assemble(bitness: u32, address: u64, program: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bitness).unwrap();
    program(&mut assembler);
    assembler.assemble(address).unwrap()
}

/// Where [`guest`] puts its code.
pub const CODE: u64 = 0x1_0000;

/// A processor in 64-bit mode with `write`'s code at its RIP.
pub fn guest(write: impl FnOnce(&mut CodeAssembler)) -> Box<Vcpu> {
    let vcpu = Box::new(Vcpu::for_test_64(8 << 20));
    vcpu.poke(CODE, &assemble(64, CODE, write));
    vcpu
}
