//! Which enlightenments are offered. One table says for every feature what it is called, what it needs
//! and what CPUID tells of it; MSRs and hypercalls ask for the same features, so that what is offered is
//! what is there.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use tlfs::cpuid;

/// One enlightenment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// Guest OS id, hypercall page and VP index: the interface itself. Every other feature needs it.
    Hypercalls,
    /// The advice not to rely on timely interrupts.
    RelaxedTiming,
    /// MSR VP_RUNTIME.
    VpRuntime,
    /// MSR TIME_REF_COUNT.
    ReferenceCounter,
    /// The reference TSC page.
    ReferenceTsc,
    /// MSRs TSC_FREQUENCY and APIC_FREQUENCY.
    Frequencies,
    /// MSRs EOI, ICR, TPR and the VP assist page with EOI assist.
    ApicMsrs,
    /// The advice not to use automatic end of interrupt.
    DeprecateAutoEoi,
    /// The synthetic interrupt controller.
    Synic,
    /// HvCallPostMessage.
    PostMessages,
    /// HvCallSignalEvent.
    SignalEvents,
    /// Four synthetic timers a processor.
    SyntheticTimers,
    /// Synthetic timers that interrupt without a message.
    DirectTimers,
    /// MSR GUEST_IDLE.
    GuestIdle,
    /// The crash MSRs.
    Crash,
    /// MSR RESET.
    Reset,
    /// TLB flush by hypercall.
    TlbFlush,
    /// Interprocessor interrupts by hypercall.
    ClusterIpi,
    /// The forms of those two that take sparse processor sets.
    ExProcessorMasks,
    /// HvCallNotifyLongSpinWait.
    SpinWait,
    /// Fast hypercalls with input in XMM registers.
    XmmInput,
    /// Fast hypercalls with output in registers.
    XmmOutput,
    /// HvCallGetVpRegisters and HvCallSetVpRegisters.
    VpRegisters,
    /// HvCallStartVirtualProcessor and HvCallGetVpIndexFromApicId.
    StartProcessor,
    /// Extended hypercalls.
    ExtendedHypercalls,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Hypercalls,
        Self::RelaxedTiming,
        Self::VpRuntime,
        Self::ReferenceCounter,
        Self::ReferenceTsc,
        Self::Frequencies,
        Self::ApicMsrs,
        Self::DeprecateAutoEoi,
        Self::Synic,
        Self::PostMessages,
        Self::SignalEvents,
        Self::SyntheticTimers,
        Self::DirectTimers,
        Self::GuestIdle,
        Self::Crash,
        Self::Reset,
        Self::TlbFlush,
        Self::ClusterIpi,
        Self::ExProcessorMasks,
        Self::SpinWait,
        Self::XmmInput,
        Self::XmmOutput,
        Self::VpRegisters,
        Self::StartProcessor,
        Self::ExtendedHypercalls,
    ];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hypercalls => "hypercalls",
            Self::RelaxedTiming => "relaxed-timing",
            Self::VpRuntime => "vp-runtime",
            Self::ReferenceCounter => "reference-counter",
            Self::ReferenceTsc => "reference-tsc",
            Self::Frequencies => "frequencies",
            Self::ApicMsrs => "apic-msrs",
            Self::DeprecateAutoEoi => "deprecate-auto-eoi",
            Self::Synic => "synic",
            Self::PostMessages => "post-messages",
            Self::SignalEvents => "signal-events",
            Self::SyntheticTimers => "synthetic-timers",
            Self::DirectTimers => "direct-timers",
            Self::GuestIdle => "guest-idle",
            Self::Crash => "crash",
            Self::Reset => "reset",
            Self::TlbFlush => "tlb-flush",
            Self::ClusterIpi => "cluster-ipi",
            Self::ExProcessorMasks => "ex-processor-masks",
            Self::SpinWait => "spin-wait",
            Self::XmmInput => "xmm-input",
            Self::XmmOutput => "xmm-output",
            Self::VpRegisters => "vp-registers",
            Self::StartProcessor => "start-processor",
            Self::ExtendedHypercalls => "extended-hypercalls",
        }
    }

    /// What it needs besides [`Self::Hypercalls`].
    const fn needs(self) -> &'static [Self] {
        match self {
            Self::ReferenceTsc => &[Self::ReferenceCounter],
            Self::PostMessages | Self::SignalEvents => &[Self::Synic],
            Self::SyntheticTimers => &[Self::Synic, Self::ReferenceCounter],
            Self::DirectTimers => &[Self::SyntheticTimers],
            Self::XmmOutput => &[Self::XmmInput],
            _ => &[],
        }
    }

    /// Its bits in EAX and EBX of leaf 0x40000003.
    pub(crate) const fn privileges(self) -> cpuid::Privileges {
        let none = cpuid::Privileges::new();
        match self {
            Self::Hypercalls => none.with_access_hypercall(true).with_access_vp_index(true),
            Self::VpRuntime => none.with_access_vp_runtime(true),
            Self::ReferenceCounter => none.with_access_partition_reference_counter(true),
            Self::ReferenceTsc => none.with_access_partition_reference_tsc(true),
            Self::Frequencies => none.with_access_frequencies(true),
            Self::ApicMsrs => none.with_access_interrupt_control(true),
            Self::Synic => none.with_access_synic(true),
            Self::PostMessages => none.with_post_messages(true),
            Self::SignalEvents => none.with_signal_events(true),
            Self::SyntheticTimers => none.with_access_synthetic_timers(true),
            Self::GuestIdle => none.with_access_guest_idle(true),
            Self::Reset => none.with_access_reset(true),
            Self::VpRegisters => none.with_access_vp_registers(true),
            Self::StartProcessor => none.with_start_virtual_processor(true),
            Self::ExtendedHypercalls => none.with_enable_extended_hypercalls(true),
            _ => none,
        }
    }

    /// Its bits in EDX of leaf 0x40000003.
    pub(crate) const fn features(self) -> cpuid::Features {
        let none = cpuid::Features::new();
        match self {
            Self::Hypercalls => none.with_hypercall_lock(true),
            Self::Frequencies => none.with_timer_frequencies(true),
            Self::Synic => none.with_sint_polling(true),
            Self::DirectTimers => none.with_direct_synthetic_timers(true),
            Self::GuestIdle => none.with_guest_idle(true),
            Self::Crash => none.with_guest_crash(true),
            Self::XmmInput => none.with_xmm_hypercall_input(true),
            Self::XmmOutput => none.with_xmm_hypercall_output(true),
            _ => none,
        }
    }

    /// Its bits in EAX of leaf 0x40000004.
    pub(crate) const fn recommendations(self) -> cpuid::Recommendations {
        let none = cpuid::Recommendations::new();
        match self {
            Self::RelaxedTiming => none.with_relaxed_timing(true),
            Self::ApicMsrs => none.with_apic_msrs(true),
            Self::DeprecateAutoEoi => none.with_deprecate_auto_eoi(true),
            Self::TlbFlush => none.with_remote_tlb_flush(true),
            Self::ClusterIpi => none.with_cluster_ipi(true),
            Self::ExProcessorMasks => none.with_ex_processor_masks(true),
            _ => none,
        }
    }
}

/// A set of features in which everything is there that a member needs.
///
/// As text: `all`, `none`, or a list of names with commas between them; `-name` takes a feature away,
/// with everything that needs it, from what stands before it (from `all` at the beginning).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u32);

/// A word in a list of enlightenments that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown enlightenment \"{name}\": expected all, none or names from {}", Features::ALL)]
pub struct UnknownFeature {
    /// The word.
    pub name: String,
}

impl Features {
    /// Nothing: the guest sees no hypervisor.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self((1 << Feature::ALL.len()) - 1);

    /// Whether `feature` is offered.
    #[inline]
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u32) != 0
    }

    /// Whether nothing is offered.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that another implementation of the interface has too, by the leaves of its CPUID. Features that no
    /// leaf tells of are hypercalls that it then would have to leave to this one.
    #[must_use]
    pub fn within(self, leaf: impl Fn(u32) -> [u32; 4]) -> Self {
        let [eax, ebx, _, edx] = leaf(cpuid::FEATURES);
        let privileges = u64::from(ebx) << 32 | u64::from(eax);
        let [recommendations, ..] = leaf(cpuid::RECOMMENDATIONS);
        // Details that CPUID tells of features that are whole without them.
        let details = cpuid::Features::new().with_hypercall_lock(true).with_sint_polling(true).into_bits();
        let there = |feature: &Feature| {
            feature.privileges().into_bits() & !privileges == 0
                && feature.features().into_bits() & !(edx | details) == 0
                && feature.recommendations().into_bits() & !recommendations == 0
        };
        let missing = self.iter().filter(|feature| !there(feature));
        missing.fold(self, Self::without)
    }

    /// With `feature` and all that it needs.
    #[must_use]
    pub fn with(self, feature: Feature) -> Self {
        let base = Self(self.0 | 1 << feature as u32 | 1 << Feature::Hypercalls as u32);
        feature.needs().iter().fold(base, |set, &needed| set.with(needed))
    }

    /// Without `feature` and all that needs it.
    #[must_use]
    pub fn without(self, feature: Feature) -> Self {
        if feature == Feature::Hypercalls {
            return Self::NONE;
        }
        let base = Self(self.0 & !(1 << feature as u32));
        base.iter().filter(|other| other.needs().contains(&feature)).fold(base, Self::without)
    }

    /// Without `feature` alone, for telling what is missing: the rest may need it.
    #[must_use]
    pub const fn remove(self, feature: Feature) -> Self {
        Self(self.0 & !(1 << feature as u32))
    }

    /// The features in the set.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |&feature| self.contains(feature))
    }
}

impl FromStr for Features {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<Self, UnknownFeature> {
        let mut set = if text.trim_start().starts_with('-') { Self::ALL } else { Self::NONE };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (take_away, name) = match word.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, word),
            };
            let feature = Feature::ALL.into_iter().find(|feature| feature.name() == name);
            set = match (feature, take_away, name) {
                (Some(feature), false, _) => set.with(feature),
                (Some(feature), true, _) => set.without(feature),
                (None, false, "all") => Self::ALL,
                (None, false, "none") => Self::NONE,
                _ => return Err(UnknownFeature { name: name.to_owned() }),
            };
        }
        Ok(set)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, feature) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", feature.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_its_own_bit_and_name() {
        for (index, feature) in Feature::ALL.into_iter().enumerate() {
            assert_eq!(feature as usize, index);
            assert_eq!(feature.name().parse(), Ok(Features::NONE.with(feature)));
        }
    }

    #[test]
    fn a_feature_brings_what_it_needs() {
        let set: Features = "direct-timers".parse().unwrap();
        assert_eq!(set.to_string(), "hypercalls,reference-counter,synic,synthetic-timers,direct-timers");
    }

    #[test]
    fn what_another_implementation_lacks_is_left_out_with_what_needs_it() {
        let leaf = |number: u32| match number {
            cpuid::FEATURES => [0b1010_1111_1111 & !(1 << 3), 0x30, 0, 1 << 4 | 1 << 8 | 1 << 10 | 1 << 19],
            cpuid::RECOMMENDATIONS => [u32::MAX, 0, 0, 0],
            _ => [0; 4],
        };
        let set = Features::ALL.within(leaf);
        let gone = [
            Feature::SyntheticTimers,
            Feature::DirectTimers,
            Feature::GuestIdle,
            Feature::XmmOutput,
            Feature::StartProcessor,
        ];
        assert!(!gone.into_iter().any(|feature| set.contains(feature)), "{set}");
        let left =
            [Feature::Synic, Feature::PostMessages, Feature::TlbFlush, Feature::XmmInput, Feature::SpinWait];
        assert!(left.into_iter().all(|feature| set.contains(feature)), "{set}");
    }

    #[test]
    fn an_implementation_without_leaves_leaves_nothing() {
        assert_eq!(Features::ALL.within(|_| [0; 4]), Features::NONE);
    }

    #[test]
    fn taking_a_feature_away_takes_what_needs_it() {
        let set: Features = "all,-synic".parse().unwrap();
        let gone = [Feature::Synic, Feature::PostMessages, Feature::SyntheticTimers, Feature::DirectTimers];
        assert!(gone.into_iter().all(|feature| !set.contains(feature)));
        assert!(set.contains(Feature::ReferenceTsc));
        assert_eq!("-synic".parse(), Ok(set));
        assert_eq!("-hypercalls".parse(), Ok(Features::NONE));
    }

    #[test]
    fn all_and_none_are_words() {
        assert_eq!("all".parse(), Ok(Features::ALL));
        assert_eq!("none".parse(), Ok(Features::NONE));
        assert_eq!(Features::ALL.to_string().parse(), Ok(Features::ALL));
    }

    #[test]
    fn an_unknown_word_is_named() {
        let error = "synic,sinyc".parse::<Features>().unwrap_err();
        assert!(error.to_string().contains("\"sinyc\""), "{error}");
        assert!(error.to_string().contains("tlb-flush"), "{error}");
        assert!("-all".parse::<Features>().is_err());
    }
}
