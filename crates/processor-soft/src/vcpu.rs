//! The state of one virtual processor.

use std::sync::Arc;
use std::time::Instant;

use interrupt::LocalApic;
use processor::{Bus, DescriptorTable, HypervisorInterface, Segment, SegmentAttributes};

use crate::debugger::Debugger;
use crate::execute::Blocks;
use crate::extension::{self, ExtensionState};
use crate::fault::Exception;
use crate::lockstep::{Journal, LockStep};
use crate::memory::Mmu;
use crate::partition::{Shared, VpShared};
use crate::registers::{Seg, attribute, cr0, cr4, efer, flag, gpr, real_mode_segment};
use crate::system::MsrState;
use crate::translate::{self, Translator};

/// One virtual processor. Owned by its thread; what other threads may touch is in [`VpShared`].
pub struct Vcpu {
    /// General registers and two pseudo registers, see [`gpr`].
    pub regs: [u64; gpr::COUNT],
    /// RIP of the next instruction, up to date at block boundaries only.
    pub rip: u64,
    /// RFLAGS without the arithmetic flags, which live in `status`.
    pub flags: u64,
    /// The arithmetic flags as LAHF and SETO deliver them on the host: AH in bits 8–15 (SF 15, ZF 14, AF 12,
    /// PF 10, CF 8), OF in bit 0. All other bits are noise.
    pub status: u32,
    /// The exception of a [`crate::fault::Fault`].
    pub exception: Option<Exception>,

    /// ES, CS, SS, DS, FS, GS, `Flat` and `FlatStack` (base 0).
    pub segments: [Segment; 8],
    /// Bit n: accesses by segment n need limit and type checks. 0 in 64-bit mode.
    pub checked_segments: u8,
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    /// Current privilege level.
    pub cpl: u8,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    pub efer: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,

    /// Interrupts are held off for one instruction, after STI or a load of SS.
    pub interrupt_shadow: bool,
    /// Between an NMI's delivery and IRET.
    pub nmi_blocked: bool,
    /// HLT is in effect.
    pub halted: bool,
    /// INIT has been received (or the processor is an application processor after reset): waits for SIPI.
    pub wait_for_sipi: bool,

    pub mmu: Mmu,
    pub blocks: Blocks,
    /// Breakpoints and steps of a debugger.
    pub debugger: Debugger,
    /// What generated code reads and writes.
    pub generated: translate::Shared,
    pub translator: Option<Box<Translator>>,
    /// The two tiers in lock step.
    pub lock_step: Option<Box<LockStep>>,
    /// While there is one, stores are noted in it and devices are not reached.
    pub journal: Option<Box<Journal>>,
    pub extension: Box<ExtensionState>,
    pub msrs: MsrState,
    /// Instructions carried out.
    pub instructions: u64,

    /// Something may be deliverable once IF allows: the APIC is asked when it does.
    pub interrupt_waiting: bool,
    /// `halted` ends with a pending interrupt whatever IF is.
    pub halted_ignoring_if: bool,
    /// An exception that belongs to the present RIP and not to the instruction before: delivered by the run
    /// loop before anything else.
    pub deferred: Option<Exception>,
    /// An NMI waits.
    pub nmi_waiting: bool,
    /// The present instruction has cleared TF in a way that spares it its single-step trap: an interrupt
    /// or system call.
    pub step_spared: bool,
    /// Since when time in guest code has not been told to the hypervisor interface.
    pub running_since: Instant,
    /// Turns of the run loop that led into translated code.
    pub translated_turns: u32,
    /// PAUSE instructions so far.
    pub pauses: u32,
    /// DR6 bits of debug traps that the present instruction has earned.
    pub pending_debug: u64,
    /// Guest frame number of the APIC's page; all ones if it has none.
    pub apic_page: u64,

    pub index: u32,
    pub shared: Arc<Shared>,
    pub vp: Arc<VpShared>,
    pub bus: Arc<dyn Bus>,
    pub apic: Arc<dyn LocalApic>,
    pub hypervisor: Option<Arc<dyn HypervisorInterface>>,
}

impl Vcpu {
    /// A processor after power-on.
    pub fn new(index: u32, shared: Arc<Shared>, bus: Arc<dyn Bus>, apic: Arc<dyn LocalApic>) -> Self {
        let vp = Arc::clone(&shared.vps[index as usize]);
        let mut vcpu = Self {
            regs: [0; gpr::COUNT],
            rip: 0,
            flags: flag::FIXED,
            status: 0,
            exception: None,
            segments: [Segment::default(); 8],
            checked_segments: 0,
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cpl: 0,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            efer: 0,
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            interrupt_shadow: false,
            nmi_blocked: false,
            halted: false,
            wait_for_sipi: false,
            mmu: Mmu::new(
                shared.memory.clone(),
                shared.rom.clone(),
                Arc::clone(&shared.shadow),
                Arc::clone(&shared.code),
                Arc::clone(&vp.writable),
                extension::physical_bits(),
            ),
            blocks: Blocks::new(),
            debugger: Debugger::default(),
            generated: translate::Shared::new(),
            translator: None,
            lock_step: None,
            journal: None,
            extension: ExtensionState::new(),
            msrs: MsrState::new(),
            instructions: 0,
            interrupt_waiting: false,
            halted_ignoring_if: false,
            deferred: None,
            nmi_waiting: false,
            step_spared: false,
            running_since: Instant::now(),
            translated_turns: 0,
            pauses: 0,
            pending_debug: 0,
            apic_page: u64::MAX,
            index,
            hypervisor: shared.hypervisor.get().cloned(),
            shared,
            vp,
            bus,
            apic,
        };
        vcpu.reset_registers(false);
        vcpu
    }

    /// The registers after power-on, or after INIT, which keeps some (SDM volume 3, table 11-1). The local
    /// APIC and the hypervisor interface are reset by the run loop.
    pub fn reset_registers(&mut self, init: bool) {
        self.regs = [0; gpr::COUNT];
        self.regs[gpr::RDX] = u64::from(self.cpuid(1, 0)[0]);
        self.rip = 0xfff0;
        self.set_rflags(0);
        self.exception = None;
        for (index, segment) in self.segments.iter_mut().enumerate() {
            *segment = if index < 6 { real_mode_segment(0, false) } else { Segment::default() };
        }
        self.segments[Seg::Cs as usize] = Segment { base: 0xffff_0000, ..real_mode_segment(0xf000, true) };
        let system = |kind| Segment {
            limit: 0xffff,
            attributes: SegmentAttributes(kind | attribute::PRESENT),
            ..Segment::default()
        };
        (self.ldtr, self.tr) = (system(0x2), system(0xb));
        self.gdtr = DescriptorTable { base: 0, limit: 0xffff };
        self.idtr = DescriptorTable { base: 0, limit: 0xffff };
        self.cpl = 0;
        self.cr0 = if init { self.cr0 & (cr0::CD | cr0::NW) | cr0::ET } else { cr0::CD | cr0::NW | cr0::ET };
        (self.cr2, self.cr3, self.cr4, self.efer) = (0, 0, 0, 0);
        self.dr = [0; 4];
        (self.dr6, self.dr7) = (0xffff_0ff0, 0x400);
        self.interrupt_shadow = false;
        self.nmi_blocked = false;
        self.halted = false;
        self.halted_ignoring_if = false;
        self.interrupt_waiting = true;
        self.pending_debug = 0;
        self.deferred = None;
        self.nmi_waiting = false;
        self.wait_for_sipi = self.index != 0;
        self.vp.set_waits_for_start(self.wait_for_sipi);
        self.msrs.reset(init);
        if !init {
            self.xcr0 = 1;
            self.extension.reset();
        }
        self.debug_registers_changed();
        self.apic_changed();
        self.mmu.switch(0, 0, false);
        self.paging_changed();
        self.mode_changed();
    }

    /// The mode, a code or stack segment, or the privilege level has changed: finds out anew what depends on
    /// them.
    #[inline]
    pub fn mode_changed(&mut self) {
        self.segments_changed();
        self.access_changed();
    }

    /// CR0, CR4 or EFER have changed in a way that concerns paging.
    pub fn paging_changed(&mut self) {
        self.mmu.flush_all();
        self.access_changed();
    }

    /// IA32_APIC_BASE may have changed: looks up where the APIC's page is.
    pub fn apic_changed(&mut self) {
        const ENABLE: u64 = 1 << 11;
        const X2APIC: u64 = 1 << 10;
        let base = self.apic.base();
        self.apic_page = if base & (ENABLE | X2APIC) == ENABLE { base >> 12 } else { u64::MAX };
    }

    /// RFLAGS as PUSHF would show them.
    #[inline]
    pub fn rflags(&self) -> u64 {
        let ax = u64::from(self.status);
        let low = (ax >> 8) & (flag::SF | flag::ZF | flag::AF | flag::PF | flag::CF);
        self.flags | flag::FIXED | low | ((ax & 1) << 11)
    }

    /// Sets RFLAGS, unchecked but for the fixed bits.
    #[inline]
    pub fn set_rflags(&mut self, value: u64) {
        self.set_arithmetic(value);
        self.flags = (value & !flag::ARITHMETIC & 0x3f_7fd5) | flag::FIXED;
    }

    /// Sets the arithmetic flags from the layout of RFLAGS.
    #[inline]
    pub fn set_arithmetic(&mut self, value: u64) {
        self.status = ((value & 0xd5) << 8) as u32 | (value >> 11 & 1) as u32;
    }

    /// The carry flag.
    #[inline(always)]
    pub fn carry(&self) -> bool {
        self.status & 1 << 8 != 0
    }

    /// Whether IA-32e mode is active (64-bit or compatibility mode).
    #[inline(always)]
    pub fn long_mode_active(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Whether the code segment is a 64-bit one.
    #[inline(always)]
    pub fn code_64(&self) -> bool {
        self.long_mode_active() && self.segments[Seg::Cs as usize].attributes.0 & attribute::LONG != 0
    }

    /// Real mode: CR0.PE clear.
    #[inline(always)]
    pub fn real_mode(&self) -> bool {
        self.cr0 & cr0::PE == 0
    }

    /// Virtual-8086 mode.
    #[inline(always)]
    pub fn virtual_8086(&self) -> bool {
        self.flags & flag::VM != 0
    }

    /// Default operand size of the code segment in bits, 64-bit code counting as 32.
    #[inline(always)]
    pub fn code_32(&self) -> bool {
        self.segments[Seg::Cs as usize].attributes.0 & attribute::DEFAULT_BIG != 0
    }

    /// The mask of the stack pointer: 64 bits in 64-bit mode, else by SS.B.
    #[inline(always)]
    pub fn stack_mask(&self) -> u64 {
        if self.code_64() {
            u64::MAX
        } else if self.segments[Seg::Ss as usize].attributes.0 & attribute::DEFAULT_BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Whether CR4 has all of `bits`.
    #[inline(always)]
    pub fn cr4_has(&self, bits: u64) -> bool {
        self.cr4 & bits == bits
    }

    /// Whether SMAP holds for supervisor accesses at this moment.
    #[inline(always)]
    pub fn smap_enforced(&self) -> bool {
        self.cr4 & cr4::SMAP != 0 && self.flags & flag::AC == 0
    }
}
