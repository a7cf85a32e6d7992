//! What KVM has of a processor at power-on, to go back to.

use std::io;

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use tlfs::msr as synthetic;

use crate::{msr, sys};

/// Registers that a guest sets: SYSENTER, MISC_ENABLE, PAT, memory types, system calls, GS, TSC_AUX.
const ARCHITECTURAL: [u32; 26] = [
    0x174,
    0x175,
    0x176,
    0x1a0,
    0x277,
    0x200,
    0x201,
    0x2ff,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
    0x6e0,
];

/// The state of a processor.
pub struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    msrs: Vec<(u32, u64)>,
}

impl PowerOn {
    /// The present state of `fd`, with that of its hypervisor interface if it has one.
    pub fn of(fd: &VcpuFd, hypervisor: bool) -> io::Result<Self> {
        let synthetic = [
            synthetic::GUEST_OS_ID,
            synthetic::HYPERCALL,
            synthetic::REFERENCE_TSC,
            synthetic::VP_ASSIST_PAGE,
            synthetic::SCONTROL,
            synthetic::SIEFP,
            synthetic::SIMP,
        ];
        let sources = synthetic::SINT0..=synthetic::SINT15;
        let timers = synthetic::STIMER0_CONFIG..=synthetic::STIMER3_COUNT;
        let synthetic = timers.chain(sources).chain(synthetic).filter(|_| hypervisor);
        let msrs = ARCHITECTURAL.into_iter().chain(synthetic);
        Ok(Self {
            regs: fd.get_regs()?,
            sregs: fd.get_sregs()?,
            xsave: fd.get_xsave()?,
            xcrs: fd.get_xcrs()?,
            debug: fd.get_debug_regs()?,
            events: fd.get_vcpu_events()?,
            lapic: fd.get_lapic()?,
            mp_state: fd.get_mp_state()?,
            // Not every processor has all of them.
            msrs: msrs.filter_map(|index| Some((index, read(fd, index)?))).collect(),
        })
    }

    /// Makes it the state of `fd` again.
    pub fn restore(&self, fd: &VcpuFd) -> io::Result<()> {
        fd.set_mp_state(self.mp_state)?;
        fd.set_sregs(&self.sregs)?;
        fd.set_regs(&self.regs)?;
        fd.set_xcrs(&self.xcrs)?;
        sys::set_xsave(fd, &self.xsave)?;
        fd.set_debug_regs(&self.debug)?;
        msr::set(fd, &self.msrs)?;
        fd.set_lapic(&self.lapic)?;
        fd.set_vcpu_events(&self.events)?;
        Ok(())
    }
}

fn read(fd: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..kvm_msr_entry::default() }]).ok()?;
    let count = fd.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().first().filter(|_| count == 1).map(|entry| entry.data)
}
