# The guest of the live tests: a boot sector that adds one to the first word of every page from 1 MiB to 33 MiB, over and
# over. So at any moment every counter is n or n + 1, and the pages with n + 1 come first.
#     as --32 counter-guest.S -o guest.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary guest.o -o guest.bin
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtw gdt_pointer
    inb $0x92, %al              # A20
    orb $2, %al
    outb %al, $0x92
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpw $8, $protected
    .code32
protected:
    movw $16, %ax
    movw %ax, %ds
sweep:
    movl $0x100000, %ebx
next:
    incl (%ebx)
    addl $4096, %ebx
    cmpl $0x2100000, %ebx
    jb next
    jmp sweep
    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt
    .org 510
    .word 0xaa55
