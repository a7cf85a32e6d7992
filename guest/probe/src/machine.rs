//! Instructions that leave the guest, and the memory functions that compiled code expects.

use core::arch::{asm, x86_64::__cpuid, x86_64::_mm_lfence, x86_64::_rdtsc};

/// IN of a byte.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: ports of this machine touch no memory that Rust has.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// IN of 32 bits.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `in8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// OUT of a byte.
pub fn out8(port: u16, value: u8) {
    // SAFETY: as for `in8`; DMA is not set up.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// OUT of 32 bits.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as for `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// RDMSR. The MSR exists: others raise #GP, which ends the guest.
pub fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
///
/// # Safety
/// The value makes the processor do nothing to memory that Rust has.
pub unsafe fn write_msr(msr: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags)) };
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    let leaf = __cpuid(leaf);
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

/// A 32-bit load from a device.
pub fn load(address: u64) -> u32 {
    let value;
    // SAFETY: callers name registers of devices in the identity map.
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// A 32-bit store to a device.
pub fn store(address: u64, value: u32) {
    // SAFETY: as for `load`.
    unsafe { asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) };
}

/// Drops the TLB entry of a page.
pub fn invalidate(address: u64) {
    // SAFETY: the tables stay as they are.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Lets interrupts come.
pub fn enable_interrupts() {
    // SAFETY: all vectors have handlers.
    unsafe { asm!("sti", options(nostack)) };
}

/// Holds interrupts off.
pub fn disable_interrupts() {
    // SAFETY: nobody relies on them.
    unsafe { asm!("cli", options(nostack)) };
}

/// Waits for ever.
pub fn halt() -> ! {
    loop {
        disable_interrupts();
        // SAFETY: the processor stops.
        unsafe { asm!("hlt", options(nostack)) };
    }
}

/// The time-stamp counter, after everything before it.
pub fn cycles() -> u64 {
    // SAFETY: every x86-64 processor has both.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// Of C, for compiled code.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// Of C, for compiled code.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: forwards, no byte is overwritten before it is read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: backwards neither; the direction flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// Of C, for compiled code.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// Of C, for compiled code.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for index in 0..len {
        // SAFETY: the caller's promise.
        let (left, right) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}
