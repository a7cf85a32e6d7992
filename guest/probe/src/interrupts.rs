//! Interrupts: one count for each vector that the guest uses, and the local APIC (SDM volume 3, chapter 12).

use core::arch::{asm, global_asm};
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine::{load, out8, read_msr, store, write_msr};

/// The vectors in use.
pub const VECTORS: [u8; 3] = [0x40, 0x41, 0x42];
/// What [`send`] sends to this processor.
pub const SELF: u8 = VECTORS[0];
/// What the SynIC and its timers raise.
pub const SYNIC: u8 = VECTORS[1];
/// What makes the other processor drop a page from its TLB.
pub const FLUSH: u8 = VECTORS[2];

/// How often each vector has come, by [`VECTORS`].
#[unsafe(no_mangle)]
static INTERRUPTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

const INVALID_OPCODE: usize = 6;
const GENERAL_PROTECTION: usize = 13;
const APIC: u64 = 0xfee0_0000;
const SPURIOUS: u64 = APIC + 0xf0;
const COMMAND: u64 = APIC + 0x300;
const COMMAND_TARGET: u64 = APIC + 0x310;
const SOFTWARE_ENABLE: u32 = 0x1ff;
const ASSERT: u32 = 1 << 14;
const BUSY: u32 = 1 << 12;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const APIC_BASE: u32 = 0x1b;
const APIC_ENABLE: u64 = 1 << 11;

// Handlers save what compiled code may not, count, and end the interrupt.
global_asm!(
    r#"
    .macro handler name, index
    .global \name
\name:
    push rax
    lock inc qword ptr [INTERRUPTS + 8 * \index]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq
    .endm
    handler interrupt_self, 0
    handler interrupt_synic, 1
    .global interrupt_flush
interrupt_flush:
    push rax
    mov rax, qword ptr [FLUSHED]
    invlpg [rax]
    lock inc qword ptr [INTERRUPTS + 16]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

    # EDI: an MSR. RAX: its value; RDX: whether there is such an MSR.
    .global try_rdmsr
try_rdmsr:
    mov ecx, edi
try_rdmsr_at:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov edx, 1
    ret
try_rdmsr_failed:
    xor edx, edx
    ret
    .global general_protection
general_protection:
    push rax
    lea rax, [rip + try_rdmsr_at]
    cmp qword ptr [rsp + 16], rax
    jne 4f
    lea rax, [rip + try_rdmsr_failed]
    mov qword ptr [rsp + 16], rax
    pop rax
    add rsp, 8
    iretq
4:  pop rax
    jmp exception_stubs + 13 * 32

    # A hypercall that raises #UD comes back with a result that none has.
    .global invalid_opcode
invalid_opcode:
    push rcx
    mov rcx, qword ptr [rsp + 8]
    lea rax, [rip + HYPERCALL]
    sub rcx, rax
    cmp rcx, 4096
    jae 5f
    mov rcx, qword ptr [rsp + 32]
    mov rax, qword ptr [rcx]
    mov qword ptr [rsp + 8], rax
    add rcx, 8
    mov qword ptr [rsp + 32], rcx
    mov rax, -1
    pop rcx
    iretq
5:  pop rcx
    jmp exception_stubs + 6 * 32

    # Exceptions: the guest is wrong, or the machine.
    .balign 32
    .global exception_stubs
exception_stubs:
    .set vector, 0
    .rept 32
    .balign 32
    mov edi, vector
    mov rsi, rsp
    and rsp, -16
    call exception
    .set vector, vector + 1
    .endr
"#
);

unsafe extern "C" {
    safe static interrupt_self: u8;
    safe static interrupt_synic: u8;
    safe static interrupt_flush: u8;
    safe static exception_stubs: u8;
    safe static general_protection: u8;
    safe static invalid_opcode: u8;
    safe static try_rdmsr: u8;
}

/// The page that [`FLUSH`] drops.
#[unsafe(no_mangle)]
pub static FLUSHED: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn exception(vector: u32, stack: *const u64) -> ! {
    // SAFETY: the processor has put at least three words there.
    let words = unsafe { [stack.read(), stack.add(1).read(), stack.add(2).read()] };
    say!("probe: exception {vector}, stack {words:#x?}");
    crate::end(0x7f)
}

#[repr(C, align(16))]
struct Table([[u64; 2]; 256]);

static mut TABLE: Table = Table([[0; 2]; 256]);

fn gate(address: u64) -> [u64; 2] {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
    const CODE: u64 = 8 << 16;
    [address & 0xffff | CODE | PRESENT_INTERRUPT_GATE | (address >> 16 & 0xffff) << 48, address >> 32]
}

/// Sets the table up, and leaves the PICs without a voice. For the first processor.
pub fn set_up() {
    let table = addr_of_mut!(TABLE);
    let handlers = [&raw const interrupt_self, &raw const interrupt_synic, &raw const interrupt_flush];
    let stubs = (&raw const exception_stubs).addr() as u64;
    // SAFETY: nobody else uses the table before the processors are told of it.
    let table = unsafe { &mut (*table).0 };
    for vector in 0..32 {
        table[vector as usize] = gate(stubs + vector * STUB);
    }
    table[INVALID_OPCODE] = gate((&raw const invalid_opcode).addr() as u64);
    table[GENERAL_PROTECTION] = gate((&raw const general_protection).addr() as u64);
    for (vector, handler) in VECTORS.into_iter().zip(handlers) {
        table[usize::from(vector)] = gate(handler.addr() as u64);
    }
    for port in [0x21, 0xa1] {
        out8(port, 0xff);
    }
    use_table();
}

/// Distance of the exception stubs.
const STUB: u64 = 32;

/// Makes the table, and the APIC, those of this processor.
pub fn use_table() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer { limit: 0xfff, base: addr_of_mut!(TABLE).addr() as u64 };
    // SAFETY: the table lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
    // SAFETY: the APIC stays where it is.
    unsafe { write_msr(APIC_BASE, read_msr(APIC_BASE) | APIC_ENABLE) };
    store(SPURIOUS, SOFTWARE_ENABLE);
}

/// RDMSR; `None` if it raises #GP.
pub fn try_read_msr(msr: u32) -> Option<u64> {
    let (value, there): (u64, u64);
    // SAFETY: reading changes nothing; the handler comes back if there is no such MSR.
    unsafe {
        asm!("call {}", in(reg) &raw const try_rdmsr, in("edi") msr, out("rax") value, out("rdx") there,
            out("rcx") _);
    }
    (there != 0).then_some(value)
}

/// How often `vector`, one of [`VECTORS`], has come.
pub fn count(vector: u8) -> u64 {
    let index = VECTORS.iter().position(|known| *known == vector).unwrap_or(0);
    INTERRUPTS[index].load(Ordering::SeqCst)
}

fn command(apic: u32, value: u32) {
    store(COMMAND_TARGET, apic << 24);
    store(COMMAND, value);
    while load(COMMAND) & BUSY != 0 {}
}

/// Sends `vector` to the processor with this APIC id.
pub fn send(apic: u32, vector: u8) {
    command(apic, u32::from(vector) | ASSERT);
}

/// Makes the processor with this APIC id start at a page below 1 MiB.
pub fn start(apic: u32, page: u64) {
    command(apic, INIT | ASSERT);
    crate::pause(10_000_000);
    for _ in 0..2 {
        command(apic, STARTUP | ASSERT | (page >> 12) as u32);
        crate::pause(1_000_000);
    }
}
