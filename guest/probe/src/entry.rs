//! From the loader's hands to Rust: the PVH entry of the first processor and the start-up entry of the second.
//!
//! ```text
//! PVH, 32-bit, no paging ─┐
//!                         ├─▶ page tables, SSE, long mode ─▶ stack ─▶ probe_main / second_main
//! SIPI, 16-bit at 0x8000 ─┘
//! ```
//!
//! Specification: *x86/HVM direct boot ABI* (Xen, `docs/misc/pvh.pandoc`); SDM volume 3, section 10.8.5 for
//! IA-32e mode and 9.4 for the start of application processors.

use core::arch::global_asm;

/// Where the second processor begins: copied there, a page below 1 MiB.
pub const TRAMPOLINE: u64 = 0x8000;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long probe_start

    .section .text.entry, "ax"
    .code32
    .global probe_start
probe_start:
    cld
    cli
    mov esp, offset first_stack_end
    call make_tables
    mov edi, offset first_64
    jmp to_long_mode

    # The first 4 GiB one to one, by pages of 2 MiB.
make_tables:
    mov eax, offset table_3
    or eax, 3
    mov dword ptr [table_4], eax
    mov eax, offset table_2
    or eax, 3
    mov ecx, 0
2:  mov dword ptr [table_3 + ecx * 8], eax
    add eax, 0x1000
    inc ecx
    cmp ecx, 4
    jne 2b
    mov eax, 0x83
    mov ecx, 0
3:  mov dword ptr [table_2 + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 3b
    ret

    # Goes on at EDI in 64-bit mode.
to_long_mode:
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset table_4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb
    or eax, 0x80010022
    mov cr0, eax
    lgdt [descriptors_pointer]
    push 0x8
    push edi
    retf

    .code64
first_64:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    lea rsp, [first_stack_end]
    xor ebp, ebp
    call probe_main
    ud2

second_64:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    lea rsp, [second_stack_end]
    xor ebp, ebp
    call second_main
    ud2

    # Runs at the trampoline's address.
    .code16
    .global trampoline
    .global trampoline_end
trampoline:
    cli
    cld
    xor ax, ax
    mov ds, ax
    # LGDT of 32 bits, of the pointer behind this code.
    .byte 0x66, 0x0f, 0x01, 0x16
    .word 0x8000 + trampoline_pointer - trampoline
    mov eax, cr0
    or al, 1
    mov cr0, eax
    # A far jump to 32-bit code at second_32.
    .byte 0x66, 0xea
    .long second_32
    .word 0x18
    .balign 4
trampoline_pointer:
    .word 31
    .long descriptors
trampoline_end:

    .code32
second_32:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, offset second_stack_end
    mov edi, offset second_64
    jmp to_long_mode

    .section .data
    .balign 8
descriptors:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
descriptors_pointer:
    .word 31
    .long descriptors

    .section .bss
    .balign 4096
table_4: .skip 0x1000
table_3: .skip 0x1000
table_2: .skip 0x4000
first_stack: .skip 0x8000
first_stack_end:
second_stack: .skip 0x4000
second_stack_end:

    .section .text
    .code64
"#
);

unsafe extern "C" {
    /// First byte of the trampoline.
    pub safe static trampoline: u8;
    /// Behind its last byte.
    pub safe static trampoline_end: u8;
}
