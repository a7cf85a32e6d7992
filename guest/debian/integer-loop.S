# A program of a known length: 10 instructions in each of 30 million rounds, 300 million in all (and a dozen around
# them), with the arithmetic, a load, a store and the branch of a usual inner loop; as many times over as it has
# words on its command line, its own name among them.
    .intel_syntax noprefix
    .globl _start
_start:
    mov ecx, 30000000
    imul rcx, [rsp]
    mov eax, 1
    xor edx, edx
    lea rsi, [rip + cell]
1:
    add rax, rcx
    imul rdx, rax, 5
    xor rax, rdx
    rol rax, 7
    mov rdi, [rsi]
    add rdi, rax
    mov [rsi], rdi
    lea rdx, [rdx + rdi*2]
    dec rcx
    jnz 1b
    mov eax, 60
    xor edi, edi
    syscall

    .bss
    .balign 8
cell:
    .skip 8
    .section .note.GNU-stack, "", @progbits
