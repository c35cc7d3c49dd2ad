# The guest of the row demand-qemu: a boot sector that waits until the host says go, then reads one word of each page of a
# list, in the list's order, and sums up how long the reads took in ticks of the time-stamp counter.
#     gcc -m32 -nostdlib -static -Wl,-Ttext=0x7c00,--oformat=binary,--build-id=none -o guest.bin demand-guest.S
        .set READY,  0x6000             # the guest is in its loop
        .set GO,     0x6004             # the host says go
        .set SUM,    0x6008             # 64 bits
        .set DONE,   0x6010
        .set COUNT,  0x6014             # of the list
        .set LIST,   0x10000            # page numbers of 32 bits
        .set MAGIC,  0x600df00d

        .code16
        .globl _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtw   gdtr
        inb     $0x92, %al              # A20
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpw   $8, $protected
        .code32
protected:
        movw    $16, %ax
        movw    %ax, %ds
        xorl    %eax, %eax
        movl    %eax, GO
        movl    %eax, SUM
        movl    %eax, SUM+4
        movl    %eax, DONE
        movl    $MAGIC, READY
wait:   pause
        cmpl    $MAGIC, GO
        jne     wait
        xorl    %esi, %esi
next:   movl    LIST(,%esi,4), %ebx
        shll    $12, %ebx
        rdtsc
        movl    %eax, %edi
        movl    %edx, %ebp
        movl    (%ebx), %ecx
        rdtsc
        subl    %edi, %eax
        sbbl    %ebp, %edx
        addl    %eax, SUM
        adcl    %edx, SUM+4
        incl    %esi
        cmpl    COUNT, %esi
        jb      next
        movl    $MAGIC, DONE
end:    hlt
        jmp     end
        .balign 8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   23
        .long   gdt
        .org    510
        .word   0xaa55
