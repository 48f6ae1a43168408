//! A system call from code in the 32-bit code segment, as a 32-bit program has: the processor is in
//! compatibility mode, not only the door.

use super::{Answer, memory::Memory};

/// `socket` with these arguments.
#[cfg(target_arch = "x86_64")]
pub(crate) fn socket(memory: &mut Memory, [family, kind, protocol]: [u32; 3]) -> Answer {
    // The segment that the kernel has for 32-bit programs.
    const CODE_32: u16 = 0x23;
    const READ_EXECUTE: u64 = 5;
    // mov eax, 359; mov ebx, …; mov ecx, …; mov edx, …; int 0x80; retf
    let mut code = vec![0xb8];
    code.extend(359_u32.to_le_bytes());
    for (opcode, value) in [(0xbb, family), (0xb9, kind), (0xba, protocol)] {
        code.push(opcode);
        code.extend(value.to_le_bytes());
    }
    code.extend([0xcd, 0x80, 0xcb]);
    let page = memory.page();
    memory.write(page, &code);
    // Back from there, only 32 bits of an address are left; so what calls it is there as well:
    // call fword ptr [r13]; ret
    let bridge = page + 64;
    memory.write(bridge, &[0x41, 0xff, 0x5d, 0x00, 0xc3]);
    super::native(libc::SYS_mprotect, [page, 4096, READ_EXECUTE, 0, 0, 0])?;
    let stack = memory.zeros(4096) + 4096 - 64;
    // A far pointer: where, and in which segment.
    let mut pointer = u32::try_from(page).unwrap_or(0).to_le_bytes().to_vec();
    pointer.extend(CODE_32.to_le_bytes());
    let pointer = memory.put(&pointer);
    let result: u64;
    // SAFETY: the code there makes one call and comes back; its stack is below 4 GiB, as it knows no
    // more. What the compiler keeps for itself is put back.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "push rbp",
            "mov rbp, rsp",
            "mov rsp, r12",
            "call r14",
            "mov rsp, rbp",
            "pop rbp",
            "pop rbx",
            // In that mode nobody keeps these; the upper halves may be lost.
            inout("r12") stack => _, inout("r13") pointer => _, inout("r14") bridge => _,
            lateout("rax") result, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r15") _,
        );
    }
    let [b0, b1, b2, b3, ..] = result.to_le_bytes();
    super::answer(i32::from_le_bytes([b0, b1, b2, b3]).into())
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn socket(_: &mut Memory, _: [u32; 3]) -> Answer {
    Err(libc::ENOSYS)
}
