//! A hypercall, and one call of it with its parameters.

use std::ops::Range;

use processor::{GeneralRegister, HypercallContext};
use tlfs::HvStatus;
use tlfs::hypercall::{CallCode, FAST_BYTES, FAST_GENERAL_BYTES, FAST_XMM_REGISTERS, Input};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Arguments;
use crate::Enlightenment;
use crate::features::Feature;

/// Sizes of the list elements of a rep hypercall.
pub(crate) struct List {
    pub input: usize,
    pub output: usize,
}

/// A hypercall.
pub(crate) struct Hypercall {
    pub code: CallCode,
    /// Name of its count.
    pub name: &'static str,
    /// The features that offer it: all of them.
    pub needs: &'static [Feature],
    /// Size of the fixed input header.
    pub header: usize,
    /// Whether a variable header may follow.
    pub variable: bool,
    /// Size of the output block.
    pub output: usize,
    /// The lists of a rep hypercall.
    pub list: Option<List>,
    /// Carries it out. A rep hypercall does at least one element and says by [`Call::complete`] how far
    /// it came; if that is not the end and there is no error, it is continued.
    pub run: fn(&mut Call<'_>) -> Result<(), HvStatus>,
}

impl Hypercall {
    /// Checks the hypercall input value.
    pub fn check(&self, input: Input) -> Result<(), HvStatus> {
        let reserved = input.reserved0() != 0 || input.reserved1() != 0 || input.reserved2() != 0;
        let header = self.variable || input.variable_header() == 0;
        let reps = match self.list {
            Some(_) => input.rep_start() < input.rep_count(),
            None => input.rep_count() == 0 && input.rep_start() == 0,
        };
        match !reserved && header && reps {
            true => Ok(()),
            false => Err(HvStatus::INVALID_HYPERCALL_INPUT),
        }
    }

    /// Bytes of input in all.
    pub fn input_size(&self, input: Input) -> usize {
        let list = self.list.as_ref().map_or(0, |list| list.input * input.rep_count());
        self.header + input.variable_header() * 8 + list
    }

    /// Bytes of output in all.
    pub fn output_size(&self, input: Input) -> usize {
        self.output + self.list.as_ref().map_or(0, |list| list.output * input.rep_count())
    }
}

/// Where the parameters are.
enum Parameters {
    Memory {
        input: u64,
        output: u64,
    },
    /// The contents of the registers that the call uses, and which part of them is output.
    Registers {
        file: [u8; FAST_BYTES],
        output: Range<usize>,
    },
}

/// One call of a hypercall, whose input value and parameter blocks are valid.
pub(crate) struct Call<'a> {
    pub enlightenment: &'a Enlightenment,
    /// The calling processor.
    pub vp: u32,
    pub context: &'a mut dyn HypercallContext,
    hypercall: &'static Hypercall,
    parameters: Parameters,
    variable_header: usize,
    rep_count: usize,
    completed: usize,
    deadline: u64,
}

impl<'a> Call<'a> {
    /// Checks where the parameters are.
    pub fn new(
        enlightenment: &'a Enlightenment,
        vp: u32,
        hypercall: &'static Hypercall,
        arguments: &Arguments,
        context: &'a mut dyn HypercallContext,
    ) -> Result<Self, HvStatus> {
        let input = Input::from_bits(arguments.input);
        let sizes = (hypercall.input_size(input), hypercall.output_size(input));
        let parameters = match input.fast() {
            true => registers(arguments, context, sizes)?,
            false => memory(enlightenment, arguments, sizes)?,
        };
        Ok(Self {
            enlightenment,
            vp,
            context,
            hypercall,
            parameters,
            variable_header: input.variable_header(),
            rep_count: input.rep_count(),
            completed: input.rep_start(),
            deadline: 0,
        })
    }

    /// Reads a part of the input.
    fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, HvStatus> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        match &self.parameters {
            Parameters::Memory { input, .. } => {
                let gpa = GuestAddress(input.saturating_add(offset as u64));
                let memory = &self.enlightenment.memory;
                memory.read_slice(bytes, gpa).map_err(|_| HvStatus::INVALID_ALIGNMENT)?;
            }
            Parameters::Registers { file, .. } => {
                let part = file.get(offset..offset + bytes.len());
                bytes.copy_from_slice(part.ok_or(HvStatus::INVALID_HYPERCALL_INPUT)?);
            }
        }
        Ok(value)
    }

    /// Writes a part of the output.
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: &T) -> Result<(), HvStatus> {
        let bytes = value.as_bytes();
        match &mut self.parameters {
            Parameters::Memory { output, .. } => {
                let gpa = GuestAddress(output.saturating_add(offset as u64));
                let memory = &self.enlightenment.memory;
                memory.write_slice(bytes, gpa).map_err(|_| HvStatus::INVALID_ALIGNMENT)
            }
            Parameters::Registers { file, output } => {
                let start = output.start + offset;
                let part = file.get_mut(start..start + bytes.len());
                part.ok_or(HvStatus::INVALID_HYPERCALL_INPUT)?.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The fixed header.
    pub fn header<T: FromBytes + IntoBytes>(&self) -> Result<T, HvStatus> {
        self.read(0)
    }

    /// Number of quadwords in the variable header.
    pub fn variable_header_len(&self) -> usize {
        self.variable_header
    }

    /// Quadword `index` of the variable header.
    pub fn variable_header(&self, index: usize) -> Result<u64, HvStatus> {
        if index >= self.variable_header {
            return Err(HvStatus::INVALID_HYPERCALL_INPUT);
        }
        self.read(self.hypercall.header + index * 8)
    }

    /// Writes the output block.
    pub fn set_output<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), HvStatus> {
        self.write(0, value)
    }

    /// The list elements that are still to be processed.
    pub fn remaining(&self) -> Range<usize> {
        self.completed..self.rep_count
    }

    /// Element `index` of the input list.
    pub fn element<T: FromBytes + IntoBytes>(&self, index: usize) -> Result<T, HvStatus> {
        let list = self.hypercall.list.as_ref().ok_or(HvStatus::INVALID_HYPERCALL_INPUT)?;
        self.read(self.hypercall.header + self.variable_header * 8 + index * list.input)
    }

    /// Writes element `index` of the output list.
    pub fn set_element<T: IntoBytes + Immutable>(&mut self, index: usize, value: &T) -> Result<(), HvStatus> {
        let list = self.hypercall.list.as_ref().ok_or(HvStatus::INVALID_HYPERCALL_INPUT)?;
        self.write(self.hypercall.output + index * list.output, value)
    }

    /// Says that the elements before `end` have been processed.
    pub fn complete(&mut self, end: usize) {
        self.completed = end;
    }

    /// Elements that have been processed.
    pub fn completed(&self) -> usize {
        self.completed
    }

    /// Whether elements are left.
    pub fn unfinished(&self) -> bool {
        self.completed < self.rep_count
    }

    /// Gives the call `nanoseconds` from now.
    pub fn set_time_limit(&mut self, nanoseconds: u64) {
        // Only rep hypercalls ask for the time; the others need not read the clock.
        if self.rep_count > 1 {
            self.deadline = self.enlightenment.clock.now().saturating_add(nanoseconds);
        }
    }

    /// Whether a rep hypercall should be interrupted now.
    pub fn out_of_time(&self) -> bool {
        self.enlightenment.clock.now() >= self.deadline
    }

    /// Puts output into the caller's registers.
    pub fn write_registers(&mut self) {
        let Parameters::Registers { file, output } = &self.parameters else { return };
        let word = |at: usize| {
            file.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        for at in (output.start..output.end).step_by(8).filter(|at| *at < FAST_GENERAL_BYTES) {
            let register = if at == 0 { GeneralRegister::Rdx } else { GeneralRegister::R8 };
            self.context.set_register(register, word(at));
        }
        for index in 0..FAST_XMM_REGISTERS {
            let at = FAST_GENERAL_BYTES + index * 16;
            if (output.start..output.end).contains(&at) {
                self.context.set_xmm(index, u128::from(word(at + 8)) << 64 | u128::from(word(at)));
            }
        }
    }
}

/// Parameter blocks in memory: aligned, within a page, within RAM, apart from each other.
fn memory(
    enlightenment: &Enlightenment,
    arguments: &Arguments,
    (input_size, output_size): (usize, usize),
) -> Result<Parameters, HvStatus> {
    let (input, output) = (arguments.first, arguments.second);
    for (gpa, size) in [(input, input_size), (output, output_size)] {
        let within_page = gpa as usize % tlfs::PAGE_SIZE + size <= tlfs::PAGE_SIZE;
        let valid =
            gpa.is_multiple_of(8) && within_page && enlightenment.memory.check_range(GuestAddress(gpa), size);
        // A block of no bytes is nowhere.
        if size > 0 && !valid {
            return Err(HvStatus::INVALID_ALIGNMENT);
        }
    }
    let overlap =
        input < output.saturating_add(output_size as u64) && output < input.saturating_add(input_size as u64);
    if input_size > 0 && output_size > 0 && overlap {
        return Err(HvStatus::INVALID_ALIGNMENT);
    }
    Ok(Parameters::Memory { input, output })
}

/// Parameter blocks in registers.
fn registers(
    arguments: &Arguments,
    context: &dyn HypercallContext,
    (input_size, output_size): (usize, usize),
) -> Result<Parameters, HvStatus> {
    let start = if output_size > 0 { input_size.next_multiple_of(16) } else { input_size };
    let end = start + output_size;
    // Only 64-bit callers can have output in registers.
    if end > FAST_BYTES || (output_size > 0 && !arguments.long_mode) {
        return Err(HvStatus::INVALID_HYPERCALL_INPUT);
    }
    let mut file = [0; FAST_BYTES];
    file[..8].copy_from_slice(&arguments.first.to_le_bytes());
    file[8..16].copy_from_slice(&arguments.second.to_le_bytes());
    // Output registers are read too: a continued call has filled some of them before.
    let used = end.saturating_sub(FAST_GENERAL_BYTES).div_ceil(16);
    for (index, part) in file[FAST_GENERAL_BYTES..].chunks_exact_mut(16).enumerate().take(used) {
        part.copy_from_slice(&context.xmm(index).to_le_bytes());
    }
    Ok(Parameters::Registers { file, output: start..end })
}
