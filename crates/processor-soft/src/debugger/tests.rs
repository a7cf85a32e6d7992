use iced_x86::code_asm::*;
use processor::{Partition, Processor};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::partition::Tier;
use crate::registers::{flag, gpr};
use crate::testing::{CODE, FakeApic, FakeBus, assemble};
use crate::{SoftConfig, SoftPartition};

/// Where the counter of [`counting`] is.
const COUNTER: u64 = 0x5000;
/// A function on a page of its own.
const FUNCTION: u64 = 0x1_3000;

struct Guest {
    processor: SoftProcessor,
    partition: std::sync::Arc<SoftPartition>,
    apic: std::sync::Arc<FakeApic>,
}

/// A processor of `tier` in 64-bit mode at code that calls [`FUNCTION`] for ever, which increments [`COUNTER`].
fn counting(tier: Tier) -> Guest {
    let (memory, code) = guest_memory::allocate(8 << 20).unwrap();
    let partition = SoftPartition::new(SoftConfig {
        processors: 1,
        memory: memory.clone(),
        rom: None,
        shadow: std::sync::Arc::default(),
        code,
        clock: clock::VmClock::new(),
        tier,
        inspection: std::sync::Arc::default(),
        registry: std::sync::Arc::default(),
    });
    partition.attach_bus(std::sync::Arc::new(FakeBus::default()));
    let apic = FakeApic::new();
    partition.attach_apic(0, apic.clone());
    let put = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at)).unwrap();
    put(0x1000, &0x2007_u64.to_le_bytes());
    put(0x2000, &0x3007_u64.to_le_bytes());
    (0..512_u64).for_each(|index| put(0x3000 + index * 8, &(index << 21 | 0x87).to_le_bytes()));
    let caller = assemble(64, CODE, |a| {
        a.call(FUNCTION).unwrap();
        a.jmp(CODE).unwrap();
    });
    put(CODE, &caller);
    let function = assemble(64, FUNCTION, |a| {
        a.inc(qword_ptr(COUNTER)).unwrap();
        a.mov(rbx, qword_ptr(COUNTER)).unwrap();
        a.ret().unwrap();
    });
    put(FUNCTION, &function);

    let registers = Vcpu::for_test_64(4 << 20).snapshot();
    let vcpu =
        Vcpu::new(0, partition.shared().clone(), std::sync::Arc::new(FakeBus::default()), apic.clone());
    let mut processor = SoftProcessor::new(vcpu);
    processor.start_at(&registers).unwrap();
    Guest { processor, partition, apic }
}

impl Guest {
    fn run_with(&mut self, step: bool, breakpoints: &[Breakpoint]) -> Exit {
        let control = DebugControl { step, breakpoints: breakpoints.to_vec() };
        self.processor.control(&control).unwrap();
        self.processor.run()
    }

    fn step(&mut self) -> u64 {
        assert_eq!(self.run_with(true, &[]), Exit::Debug(DebugStop::Step));
        self.processor.vcpu.rip
    }

    /// Lets it run for a while.
    fn run_freely(&mut self) {
        self.processor.control(&DebugControl::default()).unwrap();
        let before = self.count();
        let partition = std::sync::Arc::clone(&self.partition);
        let memory = partition.shared().memory.clone();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| self.processor.run());
            while memory.read_obj::<u64>(GuestAddress(COUNTER)).unwrap() < before + 10_000 {
                std::thread::yield_now();
            }
            partition.stop();
            assert_eq!(running.join().unwrap(), Exit::Stopped);
        });
        partition.resume();
    }

    fn count(&self) -> u64 {
        self.processor.vcpu.shared.memory.read_obj(GuestAddress(COUNTER)).unwrap()
    }
}

fn execution(address: u64) -> Breakpoint {
    Breakpoint { on: BreakOn::Execution, address, length: 1 }
}

fn watch(on: BreakOn, address: u64) -> Breakpoint {
    Breakpoint { on, address, length: 4 }
}

fn hit(point: Breakpoint) -> Exit {
    Exit::Debug(DebugStop::Breakpoint(point))
}

const TIERS: [Tier; 3] = [Tier::Interpreter, Tier::Translator, Tier::LockStep];

#[test]
fn a_breakpoint_stops_before_its_instruction_also_in_code_that_ran_before() {
    for tier in TIERS {
        let mut guest = counting(tier);
        guest.run_freely();
        let point = execution(FUNCTION);
        assert_eq!(guest.run_with(false, &[point]), hit(point), "{tier:?}");
        let count = guest.count();
        assert_eq!(guest.processor.vcpu.rip, FUNCTION);
        assert_eq!(guest.run_with(false, &[point]), hit(point), "it is there still");
        assert_eq!(guest.count(), count);
        guest.step();
        assert_eq!(guest.run_with(false, &[point]), hit(point));
        assert_eq!(guest.count(), count + 1, "one round later");
    }
}

#[test]
fn without_breakpoints_code_runs_past_where_they_were() {
    for tier in TIERS {
        let mut guest = counting(tier);
        let point = execution(FUNCTION);
        assert_eq!(guest.run_with(false, &[point]), hit(point), "{tier:?}");
        guest.run_freely();
    }
}

#[test]
fn a_breakpoint_elsewhere_on_the_page_does_not_stop() {
    for tier in TIERS {
        let mut guest = counting(tier);
        let (near, far) = (execution(FUNCTION + 1), execution(FUNCTION + 8));
        assert_eq!(guest.run_with(false, &[near, far]), hit(far), "{tier:?}");
        assert_eq!(guest.count(), 1);
    }
}

#[test]
fn a_step_carries_out_one_instruction() {
    for tier in TIERS {
        let mut guest = counting(tier);
        assert_eq!(guest.step(), FUNCTION, "{tier:?}");
        assert_eq!(guest.step(), FUNCTION + 8);
        assert_eq!(guest.count(), 1);
    }
}

#[test]
fn interrupts_wait_during_steps() {
    let mut guest = counting(Tier::Interpreter);
    guest.processor.vcpu.set_rflags(flag::IF | flag::FIXED);
    guest.apic.vectors.lock().unwrap().push(0x40);
    assert_eq!(guest.step(), FUNCTION);
    assert_eq!(*guest.apic.vectors.lock().unwrap(), [0x40]);
}

#[test]
fn a_step_over_a_fault_ends_at_its_handler() {
    let mut guest = counting(Tier::Interpreter);
    // INT3 through an interrupt gate for vector 3.
    guest.processor.vcpu.poke(CODE, &[0xcc]);
    let handler = 0x1_4000_u64;
    let gate = (handler & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    guest.processor.vcpu.poke(0x6000 + 3 * 16, &gate.to_le_bytes());
    guest.processor.vcpu.poke(0x7000 + 0x10, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    guest.processor.vcpu.idtr = processor::DescriptorTable { base: 0x6000, limit: 0xfff };
    guest.processor.vcpu.gdtr = processor::DescriptorTable { base: 0x7000, limit: 0xff };
    assert_eq!(guest.step(), handler);
}

#[test]
fn watched_data_stops_after_the_instruction() {
    for tier in TIERS {
        let mut guest = counting(tier);
        guest.run_freely();
        for on in [BreakOn::Write, BreakOn::Access] {
            let point = watch(on, COUNTER + 4);
            let before = guest.count();
            assert_eq!(guest.run_with(false, &[point]), hit(point), "{tier:?}");
            assert!(guest.count() <= before + 1);
        }
        let point = watch(BreakOn::Read, COUNTER);
        assert_eq!(guest.run_with(false, &[point]), hit(point));
        let elsewhere = [watch(BreakOn::Access, COUNTER + 8), execution(FUNCTION)];
        assert_eq!(guest.run_with(false, &elsewhere), hit(elsewhere[1]));
    }
}

#[test]
fn too_much_watched_data_is_refused_and_changes_nothing() {
    let mut guest = counting(Tier::Interpreter);
    let breakpoints = (0..=WATCHED_PAGES as u64).map(|n| watch(BreakOn::Write, n << 12)).collect();
    let refused = guest.processor.control(&DebugControl { step: false, breakpoints });
    assert!(matches!(refused, Err(Error::Debug(_))));
    guest.run_freely();
}

#[test]
fn registers_are_read_and_set() {
    let mut guest = counting(Tier::Interpreter);
    let mut registers = guest.processor.registers().unwrap();
    assert_eq!((registers.system.rip, registers.system.cr3), (CODE, 0x1000));
    registers.system.general[gpr::RAX] = 7;
    registers.system.rip = FUNCTION;
    registers.system.segments[Seg::Gs as usize].base = 0x1234;
    registers.xmm[3] = 5;
    registers.st[0][0] = 9;
    guest.processor.set_registers(&registers).unwrap();
    assert_eq!(guest.processor.registers().unwrap(), registers);
    assert_eq!(guest.step(), FUNCTION + 8);
}

#[test]
fn a_state_that_the_processor_cannot_be_in_is_refused_and_changes_nothing() {
    let mut guest = counting(Tier::Interpreter);
    let before = guest.processor.registers().unwrap();
    let mut refused = |change: &dyn Fn(&mut processor::StartRegisters)| {
        let mut registers = before.clone();
        registers.system.general[0] = 1;
        change(&mut registers.system);
        assert!(guest.processor.set_registers(&registers).is_err());
        assert_eq!(guest.processor.registers().unwrap(), before);
    };
    refused(&|system| system.rip = 0x8000_0000_0000);
    refused(&|system| system.cr3 = 1 << 60);
    // One that goes well, and one that does not.
    refused(&|system| (system.cr3, system.cr4) = (0x2000, system.cr4 | 1 << 40));
    refused(&|system| system.cr0 &= !1);
    refused(&|system| system.efer |= 1 << 40);
    assert_ne!(guest.step(), CODE, "it runs on");
}

#[test]
fn control_and_segment_registers_are_set() {
    let mut guest = counting(Tier::Translator);
    guest.run_freely();
    // The same tables once more, which map the second 2 MiB to where the first are.
    let memory = guest.processor.vcpu.shared.memory.clone();
    let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
    put(0x60_0000, 0x60_1007);
    put(0x60_1000, 0x60_2007);
    put(0x60_2000, 0x87);
    put(0x60_2008, 0x87);
    let mut registers = guest.processor.registers().unwrap();
    registers.system.cr3 = 0x60_0000;
    registers.system.cr4 |= 1 << 2;
    registers.system.segments[Seg::Ds as usize].selector = 0x28;
    registers.system.segments[Seg::Fs as usize].base = 0x77_0000;
    // EFER.LMA is the processor's.
    registers.system.efer &= !(1 << 10);
    guest.processor.set_registers(&registers).unwrap();
    registers.system.efer |= 1 << 10;
    assert_eq!(guest.processor.registers().unwrap(), registers);
    assert_eq!(guest.processor.translate(0x20_1234).unwrap(), Some(0x1234));
    assert_eq!(guest.processor.translate(0x40_0000).unwrap(), None);
    let count = guest.count();
    guest.run_freely();
    assert!(guest.count() > count, "it runs on in the new address space");
}

#[test]
fn addresses_are_translated_without_marking_their_pages() {
    let mut guest = counting(Tier::Interpreter);
    assert_eq!(guest.processor.translate(0x20_1234).unwrap(), Some(0x20_1234));
    assert_eq!(guest.processor.translate(0x80_0000_0000).unwrap(), None);
    assert_eq!(guest.processor.translate(0x8000_0000_0000).unwrap(), None);
    let entry: [u8; 8] = guest.processor.vcpu.peek(0x3008);
    assert_eq!(u64::from_le_bytes(entry), 1 << 21 | 0x87);
}
