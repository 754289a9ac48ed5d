# The guest of the KVM probe: firmware that goes through what every Service VM's kernel needs (protected mode, paging,
# long mode, SSE, loops over memory), then writes a mark to QEMU's debug-exit device. QEMU places 64 KiB of firmware at
# 0xf0000, too; the processor starts 16 bytes before its end, where the probe puts a jump to f000:0000.
#
# Assemble:  as --64 guest.s -o guest.o && ld -Ttext=0 -e 0 --oformat binary -m elf_x86_64 guest.o -o guest.bin
.code16
.org 0
start16:
    cli
    lgdtl %cs:gdtr            # linear base in gdtr
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $(start32 + 0xf0000)
.code32
start32:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x8000, %esp
    # Page tables: 0x1000 -> 0x2000 -> 0x3000, one page of 2 MiB, mapped to itself.
    xorl %eax, %eax
    movl $0x1000, %edi
    movl $0xc00, %ecx
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x83, 0x3000
    movl $0x1000, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax          # PAE, SSE
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax          # LME
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax    # EM off
    orl $0x80000002, %eax     # PG, MP
    movl %eax, %cr0
    ljmpl $24, $(start64 + 0xf0000)
.code64
start64:
    xorl %eax, %eax
    cpuid
    movl $100000, %ecx
    movq $0x10000, %rdi
    xorps %xmm0, %xmm0
1:  movups %xmm0, (%rdi)
    addq %rcx, (%rdi)
    loop 1b
    movb $0x2a, %al           # the mark
    outb %al, $0xf4
2:  hlt
    jmp 2b
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff   # 8: 32-bit code
    .quad 0x00cf93000000ffff   # 16: data
    .quad 0x00af9b000000ffff   # 24: 64-bit code
gdtr:
    .word gdtr - gdt - 1
    .long gdt + 0xf0000
