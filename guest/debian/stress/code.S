// What C cannot say: instructions at known places, and values in all registers at once.
    .intel_syntax noprefix
    .text

// ---- protect.c ----
    .globl touch_load, touch_load_at, touch_store, touch_store_at, touch_failed
touch_load:
    xor eax, eax
touch_load_at:
    mov rdx, [rdi]
    mov [rsi], rdx
    ret
touch_store:
    xor eax, eax
touch_store_at:
    mov [rdi], rsi
touch_failed:
    ret

// ---- signals.c: hold(const struct image *in, struct image *out, loops, level) ----
    .altmacro
    .macro vectors operation, name, size, last, load
    n = 0
    .rept \last + 1
    vector1 \operation, \name, %n, \size, \load
    n = n + 1
    .endr
    .endm
    .macro vector1 operation, name, n, size, load
    .if \load
    \operation \name\n, [rdi + 0x100 + \n * 64]
    .else
    \operation [r15 + 0x100 + \n * 64], \name\n
    .endif
    .endm
    .macro masks load
    n = 1
    .rept 7
    mask1 %n, \load
    n = n + 1
    .endr
    .endm
    .macro mask1 n, load
    .if \load
    kmovq k\n, [rdi + 0x98 + \n * 8]
    .else
    kmovq [r15 + 0x98 + \n * 8], k\n
    .endif
    .endm

    .globl hold
hold:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    push rcx
    cmp ecx, 1
    je 1f
    ja 2f
    vectors movups, xmm, 16, 15, 1
    jmp 3f
1:  vectors vmovups, ymm, 32, 15, 1
    jmp 3f
2:  vectors vmovups, zmm, 64, 31, 1
    masks 1
3:  fninit
    fld tbyte ptr [rdi + 0x80]
    fild qword ptr [rdi]
    mov rcx, rdx
    mov rax, [rdi]
    mov rdx, [rdi + 0x10]
    mov rbx, [rdi + 0x18]
    mov rbp, [rdi + 0x28]
    mov rsi, [rdi + 0x30]
    mov r8, [rdi + 0x40]
    mov r9, [rdi + 0x48]
    mov r10, [rdi + 0x50]
    mov r11, [rdi + 0x58]
    mov r12, [rdi + 0x60]
    mov r13, [rdi + 0x68]
    mov r14, [rdi + 0x70]
    mov r15, [rdi + 0x78]
    push [rdi + 0x90]
    popfq
    mov rdi, [rdi + 0x38]
    // The red zone is nobody else's.
    mov [rsp - 8], rax
    mov [rsp - 128], r15
    // LOOP leaves the flags alone.
4:  loop 4b
    mov rcx, [rsp - 8]
    push r15
    push rcx
    pushfq
    mov r15, [rsp + 0x20]
    mov rcx, [rsp - 104]
    mov [r15 + 0xe8], rcx
    pop [r15 + 0x90]
    pop [r15 + 0xd8]
    pop [r15 + 0x78]
    cld
    mov [r15], rax
    mov [r15 + 0x10], rdx
    mov [r15 + 0x18], rbx
    mov [r15 + 0x28], rbp
    mov [r15 + 0x30], rsi
    mov [r15 + 0x38], rdi
    mov [r15 + 0x40], r8
    mov [r15 + 0x48], r9
    mov [r15 + 0x50], r10
    mov [r15 + 0x58], r11
    mov [r15 + 0x60], r12
    mov [r15 + 0x68], r13
    mov [r15 + 0x70], r14
    fistp qword ptr [r15 + 0xe0]
    fstp tbyte ptr [r15 + 0x80]
    pop rcx
    add rsp, 8
    cmp ecx, 1
    je 1f
    ja 2f
    vectors movups, xmm, 16, 15, 0
    jmp 3f
1:  vectors vmovups, ymm, 32, 15, 0
    vzeroupper
    jmp 3f
2:  vectors vmovups, zmm, 64, 31, 0
    masks 0
    vzeroupper
3:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

// ---- traps.c: each label is where the instruction above it goes on ----
    .globl trap_divide, trap_divide_after, trap_undefined, trap_undefined_after, trap_breakpoint_after
    .globl trap_general, trap_general_after, run_traps
// Returns how many handlers have added one to RBX.
run_traps:
    push rbx
    xor ebx, ebx
    mov eax, 1
    cdq
    xor ecx, ecx
trap_divide:
    idiv ecx
trap_divide_after:
trap_undefined:
    ud2
trap_undefined_after:
    int3
trap_breakpoint_after:
trap_general:
    hlt
trap_general_after:
    mov rax, rbx
    pop rbx
    ret

// ---- step.c ----
    .globl stepped, stepped_end, stepped_loop, stepped_store, stepped_copy, step_source, step_word
// 2 + 10 * 4 + 8 + (3 + 6) + 5 = 64 steps to stepped_end: each round of REP is one.
stepped:
    mov ecx, 10
    xor eax, eax
stepped_loop:
    add eax, ecx
    push rax
    pop rdx
    loop stepped_loop
    call 1f
stepped_store:
    mov [rip + step_word], rdx
    mov rsi, [rip + step_word]
    nop
    nop
    jmp 2f
1:  inc edx
    ret
2:  lea rsi, [rip + step_source]
    lea rdi, [rip + step_target]
    mov ecx, 6
stepped_copy:
    rep movsb
    mov r8d, eax
    mov eax, 39
    syscall
    xchg eax, r8d
    cmp eax, 55
stepped_end:
    ret

    .data
step_source:
    .ascii "source"
step_target:
    .skip 8
    .balign 8
step_word:
    .quad 0
    .section .note.GNU-stack, "", @progbits
