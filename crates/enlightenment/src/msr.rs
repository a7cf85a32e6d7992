//! The synthetic model-specific registers: who they belong to, and reads and writes.

use interrupt::GeneralProtection;
use processor::MsrOutcome;
use tlfs::{PageMsr, SYNIC_VERSION, Sint, msr};

use crate::Enlightenment;
use crate::features::Feature;
use crate::vp::Vp;

/// Registers that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Group {
    Partition,
    VpIndex,
    Reset,
    VpRuntime,
    ReferenceCounter,
    ReferenceTsc,
    Frequency,
    Eoi,
    Icr,
    Tpr,
    AssistPage,
    Synic,
    Eom,
    Stimer,
    GuestIdle,
    Crash,
    Unknown,
}

impl Group {
    pub const NAMES: [&'static str; 17] = [
        "partition",
        "vp_index",
        "reset",
        "vp_runtime",
        "reference_counter",
        "reference_tsc",
        "frequency",
        "eoi",
        "icr",
        "tpr",
        "assist_page",
        "synic",
        "eom",
        "stimer",
        "guest_idle",
        "crash",
        crate::counts::UNKNOWN,
    ];
}

/// The group of a register and the feature that offers it.
fn owner(number: u32) -> Option<(Group, Feature)> {
    Some(match number {
        msr::GUEST_OS_ID | msr::HYPERCALL => (Group::Partition, Feature::Hypercalls),
        msr::VP_INDEX => (Group::VpIndex, Feature::Hypercalls),
        msr::RESET => (Group::Reset, Feature::Reset),
        msr::VP_RUNTIME => (Group::VpRuntime, Feature::VpRuntime),
        msr::TIME_REF_COUNT => (Group::ReferenceCounter, Feature::ReferenceCounter),
        msr::REFERENCE_TSC => (Group::ReferenceTsc, Feature::ReferenceTsc),
        msr::TSC_FREQUENCY | msr::APIC_FREQUENCY => (Group::Frequency, Feature::Frequencies),
        msr::EOI => (Group::Eoi, Feature::ApicMsrs),
        msr::ICR => (Group::Icr, Feature::ApicMsrs),
        msr::TPR => (Group::Tpr, Feature::ApicMsrs),
        msr::VP_ASSIST_PAGE => (Group::AssistPage, Feature::ApicMsrs),
        msr::EOM => (Group::Eom, Feature::Synic),
        msr::SCONTROL..=msr::SIMP | msr::SINT0..=msr::SINT15 => (Group::Synic, Feature::Synic),
        msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => (Group::Stimer, Feature::SyntheticTimers),
        msr::GUEST_IDLE => (Group::GuestIdle, Feature::GuestIdle),
        msr::CRASH_P0..=msr::CRASH_CTL => (Group::Crash, Feature::Crash),
        _ => return None,
    })
}

fn done<T>(result: Result<T, GeneralProtection>) -> MsrOutcome<T> {
    result.map_or(MsrOutcome::GeneralProtection, MsrOutcome::Done)
}

/// Index of a timer register: which timer, and whether it is the count.
fn stimer(number: u32) -> (usize, bool) {
    let index = (number - msr::STIMER0_CONFIG) as usize;
    (index / 2, index % 2 == 1)
}

impl Enlightenment {
    /// RDMSR of `number` by processor `index`.
    pub(crate) fn read(&self, index: u32, number: u32) -> MsrOutcome<u64> {
        let Some(vp) = self.msr_access(index, number, "RDMSR") else { return self.not_there(number) };
        done(Ok(match number {
            msr::GUEST_OS_ID => self.partition.guest_os_id(),
            msr::HYPERCALL => self.partition.hypercall().into_bits(),
            msr::VP_INDEX => index.into(),
            msr::RESET => 0,
            msr::VP_RUNTIME => vp.runtime(),
            msr::TIME_REF_COUNT => self.time.now(),
            msr::REFERENCE_TSC => self.partition.reference_tsc().into_bits(),
            msr::TSC_FREQUENCY => self.clock.tsc_frequency(),
            msr::APIC_FREQUENCY => self.apic_frequency,
            // The EOI register is for writes; as in the APIC's page, it reads as 0. So does EOM.
            msr::EOI | msr::EOM => 0,
            msr::ICR => self.with_apic(index, |apic| apic.interrupt_command()).unwrap_or(0),
            msr::TPR => self.with_apic(index, |apic| apic.task_priority()).unwrap_or(0).into(),
            msr::VP_ASSIST_PAGE => vp.apic_side.assist_page().into_bits(),
            msr::SCONTROL => vp.synic.control(),
            msr::SVERSION => SYNIC_VERSION,
            msr::SIEFP => vp.synic.event_page().into_bits(),
            msr::SIMP => vp.synic.message_page().into_bits(),
            msr::SINT0..=msr::SINT15 => vp.apic_side.sint((number - msr::SINT0) as usize).into_bits(),
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => match stimer(number) {
                (timer, false) => vp.timers.config(timer),
                (timer, true) => vp.timers.count(timer),
            },
            msr::GUEST_IDLE => return MsrOutcome::Halt(0),
            msr::CRASH_P0..=msr::CRASH_P4 => self.crash.parameter((number - msr::CRASH_P0) as usize),
            msr::CRASH_CTL => self.crash.control(),
            _ => return MsrOutcome::GeneralProtection,
        }))
    }

    /// WRMSR of `number` by processor `index`.
    pub(crate) fn write(&self, index: u32, number: u32, value: u64) -> MsrOutcome<()> {
        let Some(vp) = self.msr_access(index, number, "WRMSR") else { return self.not_there(number) };
        let now = || self.time.now();
        match number {
            msr::GUEST_OS_ID => self.partition.set_guest_os_id(value),
            msr::HYPERCALL => return done(self.partition.set_hypercall(PageMsr::from_bits(value))),
            msr::RESET if value & 1 != 0 => (self.reset_request)(),
            msr::RESET => {}
            msr::REFERENCE_TSC => {
                self.partition.set_reference_tsc(PageMsr::from_bits(value), &self.time.page());
            }
            msr::EOI => {
                self.with_apic(index, |apic| apic.end_of_interrupt());
            }
            msr::ICR => {
                self.with_apic(index, |apic| apic.set_interrupt_command(value));
            }
            msr::TPR => {
                let Ok(priority) = u8::try_from(value) else { return MsrOutcome::GeneralProtection };
                self.with_apic(index, |apic| apic.set_task_priority(priority));
            }
            msr::VP_ASSIST_PAGE => vp.apic_side.set_assist_page(PageMsr::from_bits(value)),
            msr::SCONTROL => self.messages_moved(index, vp, vp.synic.set_control(value, now())),
            msr::SIEFP => vp.synic.set_event_page(PageMsr::from_bits(value)),
            msr::SIMP => {
                let due = vp.synic.set_message_page(PageMsr::from_bits(value), now());
                self.messages_moved(index, vp, due);
            }
            msr::EOM => self.messages_moved(index, vp, vp.synic.deliver_waiting(now())),
            msr::SINT0..=msr::SINT15 => {
                if !vp.apic_side.set_sint((number - msr::SINT0) as usize, Sint::from_bits(value)) {
                    return MsrOutcome::GeneralProtection;
                }
            }
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => return self.write_stimer(index, vp, number, value),
            msr::CRASH_P0..=msr::CRASH_P4 => {
                self.crash.set_parameter((number - msr::CRASH_P0) as usize, value);
            }
            msr::CRASH_CTL => self.crash.set_control(index, value),
            // VP_INDEX, VP_RUNTIME, TIME_REF_COUNT, the frequencies, SVERSION and GUEST_IDLE.
            _ => return MsrOutcome::GeneralProtection,
        }
        MsrOutcome::Done(())
    }

    fn write_stimer(&self, index: u32, vp: &Vp, number: u32, value: u64) -> MsrOutcome<()> {
        let (timer, is_count) = stimer(number);
        // A message of what the timer was before says nothing of what it is now.
        vp.synic.cancel_timer(timer as u32);
        let expiry = match is_count {
            true => vp.timers.set_count(timer, value),
            false => match vp.timers.set_config(timer, value) {
                Ok(expiry) => expiry,
                Err(GeneralProtection) => return MsrOutcome::GeneralProtection,
            },
        };
        self.expire(index, vp, timer, expiry);
        MsrOutcome::Done(())
    }

    /// The processor that accesses a register, if both are there.
    #[inline]
    fn msr_access(&self, index: u32, number: u32, instruction: &'static str) -> Option<&Vp> {
        let (group, feature) = owner(number).unwrap_or((Group::Unknown, Feature::Hypercalls));
        let offered = group != Group::Unknown && self.features.contains(feature);
        self.counts.msr(if offered { group } else { Group::Unknown });
        if offered {
            return self.vps.get(index as usize);
        }
        let ours = (msr::FIRST..=msr::LAST).contains(&number);
        if ours && self.unhandled.first(instruction, number) {
            let number = format_args!("{number:#010x}");
            tracing::warn!(msr = number, vp = index, "{instruction} of a register that is not there");
        }
        None
    }

    fn not_there<T>(&self, number: u32) -> MsrOutcome<T> {
        match (msr::FIRST..=msr::LAST).contains(&number) {
            true => MsrOutcome::GeneralProtection,
            false => MsrOutcome::NotMine,
        }
    }
}
