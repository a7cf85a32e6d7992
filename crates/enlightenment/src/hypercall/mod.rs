//! Hypercalls (TLFS, "Hypercall Interface"): the calling conventions, and the table of what there is.
//!
//! A hypercall is a [`Hypercall`]: its code, the features that offer it, the sizes of its parameters and
//! the function that carries it out. [`dispatch`] checks everything that the specification says of all
//! hypercalls; the functions see a valid [`Call`] and check what is theirs.
//!
//! ```text
//!            memory form                      fast form
//! input      header │ variable header │ list  RDX R8 XMM0 … XMM5
//! output     block  │ list                    the registers behind the input, rounded up to 16 bytes
//! ```

mod call;
mod flush;
mod interrupts;
mod port;
mod processors;
mod registers;
mod vp_set;

use processor::{GeneralRegister, HypercallContext, HypercallOutcome};
use tlfs::HvStatus;
use tlfs::hypercall::{CallCode, Input, Output};

pub(crate) use call::{Call, Hypercall};

use crate::features::Feature;
use crate::{Enlightenment, counts};

/// Every hypercall, ordered by code.
pub(crate) const TABLE: &[&Hypercall] = &[
    &flush::SPACE,
    &flush::LIST,
    &processors::NOTIFY_LONG_SPIN_WAIT,
    &interrupts::SEND_IPI,
    &flush::SPACE_EX,
    &flush::LIST_EX,
    &interrupts::SEND_IPI_EX,
    &registers::GET,
    &registers::SET,
    &port::POST_MESSAGE,
    &port::SIGNAL_EVENT,
    &processors::START,
    &processors::INDEX_FROM_APIC_ID,
    &processors::QUERY_CAPABILITIES,
];

/// How long a hypercall may take before it is interrupted for a continuation, in nanoseconds.
const TIME_LIMIT: u64 = 50_000;

/// Carries out the hypercall in `context` for processor `vp`.
pub(crate) fn dispatch(
    enlightenment: &Enlightenment,
    vp: u32,
    context: &mut dyn HypercallContext,
) -> HypercallOutcome {
    let allowed = context.protected_mode() && context.privilege_level() == 0;
    // Before a guest has said what it is, there is no hypercall interface.
    if !allowed || enlightenment.partition.guest_os_id() == 0 {
        return HypercallOutcome::InvalidOpcode;
    }
    let arguments = Arguments::read(context);
    let input = Input::from_bits(arguments.input);
    let Ok(position) = TABLE.binary_search_by_key(&CallCode(input.code()), |call| call.code) else {
        enlightenment.counts.hypercall(TABLE.len());
        if enlightenment.unhandled.first("hypercall", input.code().into()) {
            tracing::warn!(code = format_args!("{:#06x}", input.code()), vp, "unknown hypercall");
        }
        return finish(context, Output::of(HvStatus::INVALID_HYPERCALL_CODE, 0));
    };
    enlightenment.counts.hypercall(position);
    let hypercall = TABLE[position];
    if !hypercall.needs.iter().all(|&feature| enlightenment.features.contains(feature)) {
        return finish(context, Output::of(HvStatus::ACCESS_DENIED, 0));
    }
    if let Err(status) = hypercall.check(input) {
        return finish(context, Output::of(status, 0));
    }
    if input.fast() && !registers_suffice(enlightenment, hypercall, input) {
        return HypercallOutcome::InvalidOpcode;
    }
    let mut call = match Call::new(enlightenment, vp, hypercall, &arguments, context) {
        Ok(call) => call,
        Err(status) => return finish(context, Output::of(status, 0)),
    };
    call.set_time_limit(TIME_LIMIT);
    let result = (hypercall.run)(&mut call);
    call.write_registers();
    let (completed, unfinished) = (call.completed(), call.unfinished());
    match result {
        Ok(()) if unfinished => {
            let next = input.with_rep_start(completed);
            set_input(context, next.into_bits());
            HypercallOutcome::Again
        }
        Ok(()) => finish(context, Output::of(HvStatus::SUCCESS, completed)),
        Err(status) => finish(context, Output::of(status, completed)),
    }
}

/// Whether the guest has been offered the registers that this fast call uses.
fn registers_suffice(enlightenment: &Enlightenment, hypercall: &Hypercall, input: Input) -> bool {
    let wide = hypercall.input_size(input) > tlfs::hypercall::FAST_GENERAL_BYTES;
    let returns = hypercall.output_size(input) > 0;
    (!wide || enlightenment.features.contains(Feature::XmmInput))
        && (!returns || enlightenment.features.contains(Feature::XmmOutput))
}

/// The values that a caller passes in general registers.
pub(crate) struct Arguments {
    pub long_mode: bool,
    /// The hypercall input value.
    pub input: u64,
    /// GPA of the input, or the first eight bytes of it.
    pub first: u64,
    /// GPA of the output, or the second eight bytes of the input.
    pub second: u64,
}

impl Arguments {
    fn read(context: &dyn HypercallContext) -> Self {
        use GeneralRegister::{R8, Rax, Rbx, Rcx, Rdi, Rdx, Rsi};
        let long_mode = context.long_mode();
        let pair = |high, low| context.register(high) << 32 | context.register(low) & 0xffff_ffff;
        match long_mode {
            true => Self {
                long_mode,
                input: context.register(Rcx),
                first: context.register(Rdx),
                second: context.register(R8),
            },
            false => Self { long_mode, input: pair(Rdx, Rax), first: pair(Rbx, Rcx), second: pair(Rdi, Rsi) },
        }
    }
}

/// Writes the result value.
fn finish(context: &mut dyn HypercallContext, output: Output) -> HypercallOutcome {
    set_value(context, GeneralRegister::Rax, output.into_bits());
    HypercallOutcome::Done
}

/// Writes the input value for a continuation.
fn set_input(context: &mut dyn HypercallContext, value: u64) {
    set_value(context, GeneralRegister::Rcx, value);
}

/// Writes a value to `register` of a 64-bit caller or to EDX:EAX of a 32-bit one.
fn set_value(context: &mut dyn HypercallContext, register: GeneralRegister, value: u64) {
    if context.long_mode() {
        context.set_register(register, value);
    } else {
        context.set_register(GeneralRegister::Rdx, value >> 32);
        context.set_register(GeneralRegister::Rax, value & 0xffff_ffff);
    }
}

/// Names of the hypercalls' counts, in the order of [`TABLE`], and that of unknown ones.
pub(crate) fn count_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|hypercall| hypercall.name).chain([counts::UNKNOWN])
}

#[cfg(test)]
mod tests;
