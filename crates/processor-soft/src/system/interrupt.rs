//! Delivery of interrupts and exceptions (SDM volume 3, chapter 7; volume 2, INT n).

use processor::Segment;

use super::debug::dr7;
use super::descriptor::{Descriptor, code, is_null, kind, null_segment, null_stack};
use super::stack::Stack;
use super::task::Switch;
use crate::fault::{Exception, Fault, vector};
use crate::registers::{Seg, attribute, flag, gpr};
use crate::vcpu::Vcpu;

/// Error code: the event came from outside the program.
const EXTERNAL: u32 = 1;
/// Error code: the index is one of the IDT.
const IDT: u32 = 2;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An interrupt from the local APIC, or an NMI.
    External,
    Exception,
    /// INT n, INT3 and INTO: the gate's privilege level counts.
    Software,
    /// INT1: as INT3, but the gate's privilege level does not count.
    Privileged,
}

/// What is to be delivered.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub vector: u8,
    pub cause: Cause,
    pub error_code: Option<u32>,
    /// RIP to come back to.
    pub return_rip: u64,
}

/// Why the guest is lost: a fault during the delivery of a double fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TripleFault;

/// Classes of exceptions for the double fault (SDM volume 3, table 7-4).
#[derive(PartialEq, Eq)]
enum Severity {
    Benign,
    Contributory,
    PageFault,
    Double,
}

fn severity(vector: u8) -> Severity {
    match vector {
        vector::DIVIDE_ERROR
        | vector::INVALID_TSS
        | vector::SEGMENT_NOT_PRESENT
        | vector::STACK_FAULT
        | vector::GENERAL_PROTECTION => Severity::Contributory,
        vector::PAGE_FAULT => Severity::PageFault,
        vector::DOUBLE_FAULT => Severity::Double,
        _ => Severity::Benign,
    }
}

impl Vcpu {
    /// Delivers an exception that the instruction at RIP has raised, and those that its delivery raises.
    pub fn deliver_exception(&mut self, exception: Exception) -> Result<(), TripleFault> {
        self.deliver_or_fault(exception, Cause::Exception)
    }

    /// Delivers an interrupt or NMI.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Result<(), TripleFault> {
        let event = Event { vector, cause: Cause::External, error_code: None, return_rip: self.rip };
        match self.deliver(&event) {
            Ok(()) => Ok(()),
            // Interrupts are benign: what they raise is delivered as it is.
            Err(fault) => {
                let second = self.take_exception(fault);
                self.deliver_or_fault(second, Cause::Exception)
            }
        }
    }

    fn deliver_or_fault(&mut self, first: Exception, cause: Cause) -> Result<(), TripleFault> {
        let mut exception = first;
        loop {
            match exception.vector {
                vector::PAGE_FAULT => self.cr2 = exception.address,
                vector::DEBUG => {
                    self.dr6 |= exception.dr6;
                    self.dr7 &= !dr7::GENERAL_DETECT;
                }
                _ => {}
            }
            let event = Event {
                vector: exception.vector,
                cause,
                error_code: exception.error_code,
                return_rip: self.rip,
            };
            let Err(fault) = self.deliver(&event) else { return Ok(()) };
            let second = self.take_exception(fault);
            use Severity::{Benign, Contributory, Double, PageFault};
            exception = match (severity(exception.vector), severity(second.vector)) {
                (Double, Contributory | PageFault | Double) => return Err(TripleFault),
                (Contributory, Contributory) | (PageFault, Contributory | PageFault) => {
                    Exception { vector: vector::DOUBLE_FAULT, error_code: Some(0), address: 0, dr6: 0 }
                }
                (Benign | Contributory | PageFault | Double, _) => second,
            };
            if second.vector == vector::PAGE_FAULT {
                self.cr2 = second.address;
            }
        }
    }

    fn take_exception(&mut self, _fault: Fault) -> Exception {
        let none = Exception { vector: vector::DOUBLE_FAULT, error_code: Some(0), address: 0, dr6: 0 };
        self.exception.take().unwrap_or(none)
    }

    /// Delivers one event. On `Err` nothing has changed but memory below the new stack pointer.
    pub fn deliver(&mut self, event: &Event) -> Result<(), Fault> {
        self.step_spared = true;
        let result = if self.real_mode() {
            self.deliver_real(event)
        } else if self.long_mode_active() {
            self.deliver_long(event)
        } else {
            self.deliver_protected(event)
        };
        if result.is_err()
            && event.cause != Cause::Software
            && let Some(exception) = &mut self.exception
            && matches!(
                exception.vector,
                vector::INVALID_TSS
                    | vector::SEGMENT_NOT_PRESENT
                    | vector::STACK_FAULT
                    | vector::GENERAL_PROTECTION
            )
        {
            exception.error_code = exception.error_code.map(|code| code | EXTERNAL);
        }
        result
    }

    /// RFLAGS as the event's frame shows them.
    fn frame_flags(&self, event: &Event) -> u64 {
        let restart = event.cause == Cause::Exception && event.vector != vector::DEBUG;
        self.rflags() | if restart { flag::RF } else { 0 }
    }

    fn deliver_real(&mut self, event: &Event) -> Result<(), Fault> {
        let entry = u32::from(event.vector) * 4;
        if entry + 3 > u32::from(self.idtr.limit) {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, u32::from(event.vector) << 3 | IDT));
        }
        let target: u32 = self.read_system(self.idtr.base.wrapping_add(u64::from(entry)))?;
        let mut stack = Stack::present(self);
        stack.push(self, 2, self.rflags())?;
        stack.push(self, 2, u64::from(self.segments[Seg::Cs as usize].selector))?;
        stack.push(self, 2, event.return_rip)?;
        stack.commit(self);
        self.load_real_segment(Seg::Cs, (target >> 16) as u16);
        self.rip = u64::from(target & 0xffff);
        self.flags &= !(flag::IF | flag::TF | flag::AC | flag::RF);
        self.mode_changed();
        Ok(())
    }

    /// The gate of an event after the checks that both modes share; `None` for types that the mode lacks.
    fn gate(&mut self, event: &Event, size: u32) -> Result<(Descriptor, u64), Fault> {
        let error = u32::from(event.vector) << 3 | IDT;
        let entry = u32::from(event.vector) * size;
        if entry + size - 1 > u32::from(self.idtr.limit) {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, error));
        }
        let address = self.idtr.base.wrapping_add(u64::from(entry));
        let gate = Descriptor(self.read_system(address)?);
        let known = match gate.system_kind() {
            Some(kind::INTERRUPT_GATE_32 | kind::TRAP_GATE_32) => true,
            Some(kind::INTERRUPT_GATE_16 | kind::TRAP_GATE_16 | kind::TASK_GATE) => size == 8,
            _ => false,
        };
        if !known || (event.cause == Cause::Software && gate.dpl() < self.cpl) {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, error));
        }
        if !gate.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, error));
        }
        Ok((gate, address))
    }

    /// The code segment of a gate, with its descriptor, after the checks that both modes share; and the
    /// privilege level to run at.
    fn gate_code(&mut self, gate: Descriptor) -> Result<(Segment, u8), Fault> {
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(self.general_protection());
        }
        let mut found = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        let target = found.descriptor;
        if !target.is_code() || target.dpl() > self.cpl {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, code(selector)));
        }
        if !target.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        self.set_accessed(&mut found)?;
        let cpl = if target.is_conforming() { self.cpl } else { target.dpl() };
        let mut segment = found.descriptor.segment(selector);
        segment.selector = selector & !3 | u16::from(cpl);
        Ok((segment, cpl))
    }

    fn deliver_long(&mut self, event: &Event) -> Result<(), Fault> {
        let (gate, address) = self.gate(event, 16)?;
        let high: u64 = self.read_system(address.wrapping_add(8))?;
        let (segment, cpl) = self.gate_code(gate)?;
        if segment.attributes.0 & (attribute::LONG | attribute::DEFAULT_BIG) != attribute::LONG {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, code(segment.selector)));
        }
        let rip = u64::from(gate.gate_offset()) | high << 32;
        let pointer = match gate.gate_stack() {
            0 if cpl == self.cpl => self.regs[gpr::RSP],
            0 => self.task_stack_64(4 + 8 * u32::from(cpl))?,
            index => self.task_stack_64(36 + 8 * (u32::from(index) - 1))?,
        };
        let mut stack = Stack::in_64_bit(self, pointer & !0xf, cpl);
        let flags = self.frame_flags(event);
        stack.push(self, 8, u64::from(self.segments[Seg::Ss as usize].selector))?;
        stack.push(self, 8, self.regs[gpr::RSP])?;
        stack.push(self, 8, flags)?;
        stack.push(self, 8, u64::from(self.segments[Seg::Cs as usize].selector))?;
        stack.push(self, 8, event.return_rip)?;
        if let Some(error) = event.error_code {
            stack.push(self, 8, u64::from(error))?;
        }
        if !self.canonical(rip) {
            return Err(self.general_protection());
        }
        stack.commit(self);
        if cpl != self.cpl {
            self.segments[Seg::Ss as usize] = null_stack(u16::from(cpl), cpl);
        }
        self.enter_handler(gate, segment, cpl, rip);
        Ok(())
    }

    /// A stack pointer of the 64-bit TSS.
    pub fn task_stack_64(&mut self, offset: u32) -> Result<u64, Fault> {
        if offset + 7 > self.tr.limit || self.tr.attributes.0 & attribute::UNUSABLE != 0 {
            return Err(self.raise_code(vector::INVALID_TSS, code(self.tr.selector)));
        }
        self.read_system(self.tr.base.wrapping_add(u64::from(offset)))
    }

    fn enter_handler(&mut self, gate: Descriptor, segment: Segment, cpl: u8, rip: u64) {
        let mut clear = flag::TF | flag::NT | flag::RF | flag::VM;
        // Interrupt gates have even types.
        if gate.attributes() & 1 == 0 {
            clear |= flag::IF;
        }
        self.flags &= !clear;
        self.segments[Seg::Cs as usize] = segment;
        self.cpl = cpl;
        self.rip = rip;
        self.mode_changed();
    }

    fn deliver_protected(&mut self, event: &Event) -> Result<(), Fault> {
        let (gate, _) = self.gate(event, 8)?;
        if gate.system_kind() == Some(kind::TASK_GATE) {
            self.switch_task(gate.gate_selector(), Switch::Gate, event.return_rip)?;
            if let Some(error) = event.error_code {
                let size = if self.tr.attributes.0 & attribute::CODE != 0 { 4 } else { 2 };
                self.push(size, u64::from(error))?;
            }
            return Ok(());
        }
        let size = if gate.attributes() & attribute::CODE != 0 { 4 } else { 2 };
        let (segment, cpl) = self.gate_code(gate)?;
        let virtual_8086 = self.virtual_8086();
        if virtual_8086 && cpl != 0 {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, code(segment.selector)));
        }
        let old_stack = self.segments[Seg::Ss as usize].selector;
        let flags = self.frame_flags(event);
        let (mut stack, new_segment) = if cpl < self.cpl {
            let (segment, pointer) = self.task_stack(cpl)?;
            (Stack::in_segment(self, segment, pointer, cpl), Some(segment))
        } else {
            (Stack::present(self), None)
        };
        if new_segment.is_some() {
            if virtual_8086 {
                for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                    stack.push(self, size, u64::from(self.segments[seg as usize].selector))?;
                }
            }
            stack.push(self, size, u64::from(old_stack))?;
            stack.push(self, size, self.regs[gpr::RSP])?;
        }
        stack.push(self, size, flags)?;
        stack.push(self, size, u64::from(self.segments[Seg::Cs as usize].selector))?;
        stack.push(self, size, event.return_rip)?;
        if let Some(error) = event.error_code {
            stack.push(self, size, u64::from(error))?;
        }
        let mut rip = u64::from(gate.gate_offset());
        if size == 2 {
            rip &= 0xffff;
        }
        if rip > u64::from(segment.limit) {
            return Err(self.general_protection());
        }
        if let Some(segment) = new_segment {
            self.segments[Seg::Ss as usize] = segment;
            if virtual_8086 {
                for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                    self.segments[seg as usize] = null_segment(0);
                }
            }
        }
        stack.commit(self);
        self.enter_handler(gate, segment, cpl, rip);
        Ok(())
    }

    /// The stack of privilege level `cpl` from the TSS, outside IA-32e mode.
    pub fn task_stack(&mut self, cpl: u8) -> Result<(Segment, u64), Fault> {
        let wide = self.tr.attributes.0 & attribute::CODE != 0;
        let (offset, size) = if wide { (4 + 8 * u32::from(cpl), 8) } else { (2 + 4 * u32::from(cpl), 4) };
        if offset + size - 1 > self.tr.limit || self.tr.attributes.0 & attribute::UNUSABLE != 0 {
            return Err(self.raise_code(vector::INVALID_TSS, code(self.tr.selector)));
        }
        let address = self.tr.base.wrapping_add(u64::from(offset));
        let (pointer, selector) = if wide {
            (u64::from(self.read_system::<u32>(address)?), self.read_system::<u16>(address.wrapping_add(4))?)
        } else {
            (u64::from(self.read_system::<u16>(address)?), self.read_system::<u16>(address.wrapping_add(2))?)
        };
        Ok((self.stack_segment(selector, cpl, vector::INVALID_TSS)?, pointer))
    }
}
