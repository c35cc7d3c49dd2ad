# The guest: a boot sector and a few sectors after it, at 0x7c00. Under QEMU the BIOS loads the first sector and the guest
# loads the others; our VMM loads all of it. It switches to protected or long mode and then walks its memory for ever:
# each vCPU has its own part, adds 1 to the counter of each page, checks that the counter was what this pass expects, and
# records every gap in its own time-stamp counter that is longer than a threshold: the stalls as the guest sees them.
# From time to time it prints a heartbeat, "<vcpu>:<count>", on the serial port. Integer instructions only (hazard H50).
#
# Build (a test does it and compares):
#   as -o guest.o guest.S && ld -Ttext 0x7c00 --oformat binary -o guest.bin guest.o

        .set STATE,     0x5000          # 256 bytes a vCPU: the offsets below, and its stack at the end
        .set RING,      0x10000         # 4096 bytes a vCPU: the last 256 gaps, each a start and a length in ticks
        .set PML4,      0x1000
        .set PDPT,      0x2000
        .set PD,        0x3000
        .set COM1,      0x3f8
        .set APIC_ICR,  0xfee00300

        .set PASS,      0x00            # passes begun
        .set TOUCHED,   0x08            # pages touched
        .set ERRORS,    0x10            # pages that did not hold what they should
        .set GAPS,      0x18            # gaps over the threshold
        .set GAPSUM,    0x20            # their sum
        .set BEATS,     0x28            # heartbeats printed
        .set LASTBEAT,  0x30            # time-stamp counter at the last one
        .set PREVIOUS,  0x38            # time-stamp counter at the last page
        .set BADPAGE,   0x40            # the last page that was wrong
        .set INDEX,     0x44
        .set FIRST,     0x48            # my first page
        .set END,       0x4c
        .set MYRING,    0x50
        .set DIGITS,    0x54

        .code16
        .globl _start
_start: jmp     real
        .org    0x04                    # settings, patched by the host: GuestSettings.cs
mode:   .byte   1                       # 0 protected mode, 1 long mode
smp:    .byte   0                       # 1: start the other vCPUs through the local APIC (QEMU)
fill:   .byte   0                       # 1: the first pass fills each page with its address (the VMM does it itself)
        .byte   0
base:   .long   0x100000                # where the first vCPU's part begins
pages:  .long   256                     # pages a vCPU
thresh: .long   1000000                 # gaps longer than this are recorded, in ticks
beat:   .long   100000000               # ticks between heartbeats
vcpus:  .long   0                       # how many vCPUs arrived
lock:   .long   0                       # held while a heartbeat is printed
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 08: code, 32 bits
        .quad   0x00cf93000000ffff      # 10: data
        .quad   0x00af9b000000ffff      # 18: code, 64 bits
gdtr:   .word   gdtr - gdt - 1
        .long   gdt

real:   cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7000, %sp
        cmpl    $0x32444e32, magic      # loaded whole?
        je      loaded
        movw    $0x0203, %ax            # three more sectors to 0x7e00, from the drive in dl
        movw    $0x7e00, %bx
        movw    $0x0002, %cx
        movb    $0, %dh
        int     $0x13
        cli
loaded: inb     $0x92, %al              # A20
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
enter:  lgdt    gdtr
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmp    $0x08, $protected

        # Where a vCPU begins that is started through the APIC; copied to 0x7000.
ap:     cli
        xorw    %ax, %ax
        movw    %ax, %ds
        ljmp    $0, $enter
ap_end:

        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movl    $1, %ebp
        lock xaddl %ebp, vcpus          # my index
        cmpb    $0, smp
        je      setup
        movb    $0, smp
        movl    $ap, %esi
        movl    $0x7000, %edi
        movl    $(ap_end - ap), %ecx
        rep movsb
        movl    $APIC_ICR, %edi
        movl    $0x000c4500, (%edi)     # INIT to all others
        movl    $2000000, %ecx
1:      pause
        loop    1b
        movl    $0x000c4607, (%edi)     # and start them at 0x7000
        jmp     setup

        .org    0x1fe
        .word   0xaa55
magic:  .long   0x32444e32

setup:  movl    %ebp, %ebx
        shll    $8, %ebx
        addl    $STATE, %ebx            # my state
        movl    %ebx, %edi
        xorl    %eax, %eax
        movl    $64, %ecx
        rep stosl
        movl    %ebp, INDEX(%ebx)
        movl    pages, %esi
        shll    $12, %esi
        movl    %esi, %edi
        imull   %ebp, %esi
        addl    base, %esi
        movl    %esi, FIRST(%ebx)
        addl    %esi, %edi
        movl    %edi, END(%ebx)
        shll    $12, %ebp
        addl    $RING, %ebp
        movl    %ebp, MYRING(%ebx)
        leal    0x100(%ebx), %esp
        rdtsc
        movl    %eax, PREVIOUS(%ebx)
        movl    %edx, PREVIOUS+4(%ebx)
        movl    %eax, LASTBEAT(%ebx)
        movl    %edx, LASTBEAT+4(%ebx)
        cmpb    $0, mode
        jne     to_long

        # One program for both modes. \s: state, \p and \pd: page, \n: pass, \c: address made in ecx.
        .macro  WALK s, p, pd, n, c
        xorl    \n, \n
10:     addl    $1, \n                  # a pass
        movl    \n, PASS(\s)
        movl    FIRST(\s), \pd
11:     cmpl    $1, \n                  # a page; the first pass only writes
        je      13f
        movl    (\p), %eax
        addl    $1, %eax
        cmpl    \n, %eax
        jne     12f
        cmpl    \pd, 8(\p)              # and its tag its own address
        je      14f
12:     addl    $1, ERRORS(\s)
        movl    \pd, BADPAGE(\s)
        jmp     14f
13:     movl    \pd, 8(\p)
        cmpb    $0, fill
        je      14f
        movl    $1023, %ecx
22:     movl    \pd, (\p,\c,4)
        subl    $1, %ecx
        cmpl    $2, %ecx
        ja      22b
14:     movl    \n, (\p)
        addl    $1, TOUCHED(\s)
        adcl    $0, TOUCHED+4(\s)

        rdtsc                           # how long since the last page?
        movl    %eax, %ecx
        movl    %edx, %ebp
        subl    PREVIOUS(\s), %eax
        sbbl    PREVIOUS+4(\s), %edx
        jnz     15f
        cmpl    thresh, %eax
        jb      16f
15:     movl    GAPS(\s), %ecx          # a stall: record it
        addl    $1, GAPS(\s)
        addl    %eax, GAPSUM(\s)
        adcl    %edx, GAPSUM+4(\s)
        andl    $255, %ecx
        shll    $4, %ecx
        addl    MYRING(\s), %ecx
        movl    %eax, 8(\c)
        movl    %edx, 12(\c)
        movl    PREVIOUS(\s), %eax
        movl    %eax, (\c)
        movl    PREVIOUS+4(\s), %eax
        movl    %eax, 4(\c)
        rdtsc
        movl    %eax, %ecx
        movl    %edx, %ebp
16:     movl    %ecx, PREVIOUS(\s)
        movl    %ebp, PREVIOUS+4(\s)

        movl    %ecx, %eax              # time for a heartbeat?
        movl    %ebp, %edx
        subl    LASTBEAT(\s), %eax
        sbbl    LASTBEAT+4(\s), %edx
        jnz     17f
        cmpl    beat, %eax
        jb      21f
17:     movl    %ecx, LASTBEAT(\s)
        movl    %ebp, LASTBEAT+4(\s)
18:     movl    $1, %eax
        xchgl   %eax, lock
        testl   %eax, %eax
        jz      19f
        pause
        jmp     18b
19:     movl    BEATS(\s), %eax
        addl    $1, %eax
        movl    %eax, BEATS(\s)
        movl    %eax, DIGITS(\s)
        movl    INDEX(\s), %eax
        call    30f
        movl    $10, %eax               # ":" comes after "9"
        call    31f
        movl    $8, %ecx
20:     roll    $4, DIGITS(\s)
        movl    DIGITS(\s), %eax
        andl    $15, %eax
        call    30f
        subl    $1, %ecx
        jnz     20b
        movl    $('\n' - '0'), %eax
        call    31f
        movl    $0, lock
        rdtsc                           # printing is no stall
        movl    %eax, PREVIOUS(\s)
        movl    %edx, PREVIOUS+4(\s)

21:     addl    $4096, \pd
        cmpl    END(\s), \pd
        jne     11b
        jmp     10b

30:     cmpl    $10, %eax               # prints a digit
        jb      31f
        addl    $39, %eax
31:     addl    $'0', %eax              # prints '0' + eax
        movl    %eax, %ebp
32:     movw    $(COM1 + 5), %dx
        inb     %dx, %al
        testb   $0x20, %al
        jz      32b
        movl    %ebp, %eax
        movw    $COM1, %dx
        outb    %al, %dx
        ret
        .endm

        WALK    %ebx, %esi, %esi, %edi, %ecx

to_long:
        movl    $(PDPT + 3), PML4       # identity, in pages of 2 MiB, the first GiB
        movl    $0, PML4 + 4
        movl    $(PD + 3), PDPT
        movl    $0, PDPT + 4
        movl    $PD, %edi
        movl    $0x83, %eax
        movl    $512, %ecx
1:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        subl    $1, %ecx
        jnz     1b
        movl    %cr4, %eax
        orl     $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER.LME
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmp    $0x18, $long

        .code64
long:   movl    %ebx, %r13d
        WALK    %r13, %r14, %r14d, %r15d, %rcx

        .org    0x800
