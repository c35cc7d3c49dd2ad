# A guest that only has registers: it goes to long mode, gives every register that moves with a CPU a value that no other
# has, says "r" on the serial port and stays. A test compares QEMU's own words for them with what KVM was given.
# The test assembles it: as -o registers.o registers.S && ld -Ttext 0x7c00 --oformat binary -o registers.bin registers.o
        .set PML4,      0x1000
        .set PDPT,      0x2000
        .set PD,        0x3000
        .set BUFFER,    0x6000

        .code16
        .globl _start
_start: cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7000, %sp
        movw    $0x0201, %ax            # one more sector to 0x7e00, from the drive in dl
        movw    $0x7e00, %bx
        movw    $0x0002, %cx
        movb    $0, %dh
        int     $0x13
        cli
        inb     $0x92, %al
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        lgdt    gdtr
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmp    $0x08, $protected

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 08: code, 32 bits
        .quad   0x00cf93000000ffff      # 10: data
        .quad   0x00af9b000000ffff      # 18: code, 64 bits
        .quad   0x00008b0060000067      # 20: a TSS at 0x6000, busy once loaded
        .quad   0
gdtr:   .word   gdtr - gdt - 1
        .long   gdt
idtr:   .word   0x7ff
        .quad   0x123400

        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $(PDPT + 3), PML4
        movl    $(PD + 3), PDPT
        movl    $0x83, PD               # the first 2 MiB, which is all it needs
        movl    $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER: LME, NXE, SCE
        movl    $0x901, %eax
        xorl    %edx, %edx
        wrmsr
        movl    %cr0, %eax
        orl     $0x80010022, %eax       # PG, WP, NE, MP
        movl    %eax, %cr0
        ljmp    $0x18, $long

        .code64
long:   jmp     marks
        .org    0x1fe
        .word   0xaa55

marks:  lidt    idtr
        movw    $0x10, %ax
        movw    %ax, %fs
        movw    %ax, %gs
        movb    $0x89, gdt + 0x25       # ltr makes it busy
        movw    $0x20, %ax
        ltr     %ax

        movl    $BUFFER, %edi           # 256 bytes of which none repeats its neighbour
        xorl    %eax, %eax
1:      imull   $0x0d, %eax, %edx
        addb    $0x11, %dl
        movb    %dl, (%rdi,%rax)
        incl    %eax
        cmpl    $256, %eax
        jne     1b
        movl    $BUFFER, %esi
        movups  0x00(%rsi), %xmm0
        movups  0x10(%rsi), %xmm1
        movups  0x20(%rsi), %xmm2
        movups  0x30(%rsi), %xmm3
        movups  0x40(%rsi), %xmm4
        movups  0x50(%rsi), %xmm5
        movups  0x60(%rsi), %xmm6
        movups  0x70(%rsi), %xmm7
        movups  0x80(%rsi), %xmm8
        movups  0x90(%rsi), %xmm9
        movups  0xa0(%rsi), %xmm10
        movups  0xb0(%rsi), %xmm11
        movups  0xc0(%rsi), %xmm12
        movups  0xd0(%rsi), %xmm13
        movups  0xe0(%rsi), %xmm14
        movups  0xf0(%rsi), %xmm15
        movl    $0x1fa0, BUFFER         # MXCSR with a flag that was raised
        ldmxcsr BUFFER

        fninit                          # three values: TOP is 5
        fldpi
        fld1
        fldl2e

        movl    $0x1111, %eax
        movq    %rax, %dr0
        movl    $0x2222, %eax
        movq    %rax, %dr1
        movl    $0x3333, %eax
        movq    %rax, %dr2
        movl    $0x4444, %eax
        movq    %rax, %dr3

        movl    $msrs, %esi
2:      lodsl
        movl    %eax, %ecx
        jecxz   3f
        lodsl
        movl    %eax, %edx
        lodsl
        xchgl   %eax, %edx
        wrmsr
        jmp     2b

3:      movq    $0x5555000, %rax
        movq    %rax, %cr2
        movabsq $0x0123456789abcdef, %rax
        leaq    0x01(%rax), %rbx
        leaq    0x02(%rax), %rcx
        leaq    0x03(%rax), %rsi
        leaq    0x04(%rax), %rdi
        leaq    0x05(%rax), %rbp
        leaq    0x06(%rax), %rsp
        leaq    0x08(%rax), %r8
        leaq    0x09(%rax), %r9
        leaq    0x0a(%rax), %r10
        leaq    0x0b(%rax), %r11
        leaq    0x0c(%rax), %r12
        leaq    0x0d(%rax), %r13
        leaq    0x0e(%rax), %r14
        leaq    0x0f(%rax), %r15
        movw    $0x3f8, %dx
        movb    $'r', %al
        outb    %al, %dx
        movb    $'\n', %al
        outb    %al, %dx
        addb    $0x7f, %al              # sign, overflow, adjust: flags that are not as after a reset
4:      jmp     4b

        .balign 4
msrs:   .long   0xc0000081, 0x00000000, 0x00130008      # STAR: low, high
        .long   0xc0000082, 0x00001001, 0x00000000      # LSTAR
        .long   0xc0000083, 0x00001002, 0x00000000      # CSTAR
        .long   0xc0000084, 0x00000300, 0x00000000      # FMASK
        .long   0xc0000102, 0x00001003, 0x0000007f      # KERNEL_GS_BASE
        .long   0xc0000100, 0x12340000, 0x00000fff      # FS_BASE
        .long   0xc0000101, 0x43210000, 0x00000fff      # GS_BASE
        .long   0x174, 0x00000008, 0x00000000           # SYSENTER_CS, _ESP, _EIP
        .long   0x175, 0x00009000, 0x00000000
        .long   0x176, 0x0000a000, 0x00000000
        .long   0x277, 0x00070406, 0x00070106           # PAT
        .long   0
        .org    0x400
