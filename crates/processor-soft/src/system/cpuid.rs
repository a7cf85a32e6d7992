//! CPUID: the leaves of the processor and those of the hypervisor interface.

use crate::extension::{self, View};
use crate::registers::cr4;
use crate::vcpu::Vcpu;

/// Leaves of the hypervisor interface.
const HYPERVISOR: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;
/// Enable bit of IA32_APIC_BASE.
const APIC_ENABLE: u64 = 1 << 11;

impl Vcpu {
    /// EAX, EBX, ECX, EDX of a leaf.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        if HYPERVISOR.contains(&leaf)
            && let Some(hypervisor) = &self.hypervisor
        {
            return hypervisor.cpuid(self.index, leaf, subleaf);
        }
        let view = View {
            apic_id: self.index,
            processors: self.shared.vps.len() as u32,
            osxsave: self.cr4_has(cr4::OSXSAVE),
            hypervisor: self.hypervisor.is_some(),
            xcr0: self.xcr0,
            xss: 0,
            apic: self.apic.base() & APIC_ENABLE != 0,
            tsc_frequency: clock::Clock::tsc_frequency(&*self.shared.clock),
        };
        extension::cpuid(&view, leaf, subleaf)
    }
}
