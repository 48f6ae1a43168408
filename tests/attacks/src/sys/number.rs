//! The numbers of system calls, by each door.
//!
//! Those of i386: <https://github.com/torvalds/linux/blob/v6.12/arch/x86/entry/syscalls/syscall_32.tbl>;
//! x32 has the native ones, but for a few whose structures hold pointers.

/// One system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(crate) native: u64,
    pub(crate) i386: u64,
    pub(crate) x32: u64,
}

macro_rules! numbers {
    ($($name:ident $native:ident $i386:literal $(x32 $x32:literal)?;)*) => {
        $(pub(crate) const $name: Number = numbers!(@ $native $i386 $($x32)?);)*
    };
    (@ $native:ident $i386:literal) => {
        Number { native: libc::$native as u64, i386: $i386, x32: libc::$native as u64 }
    };
    (@ $native:ident $i386:literal $x32:literal) => {
        Number { native: libc::$native as u64, i386: $i386, x32: $x32 }
    };
}

numbers! {
    BIND SYS_bind 361;
    BPF SYS_bpf 357;
    CAPSET SYS_capset 185;
    CHROOT SYS_chroot 61;
    CLONE SYS_clone 120;
    CLONE3 SYS_clone3 435;
    CONNECT SYS_connect 362;
    DELETE_MODULE SYS_delete_module 129;
    FANOTIFY_INIT SYS_fanotify_init 338;
    FINIT_MODULE SYS_finit_module 350;
    FSMOUNT SYS_fsmount 432;
    FSOPEN SYS_fsopen 430;
    FSPICK SYS_fspick 433;
    GETPID SYS_getpid 20;
    GET_ROBUST_LIST SYS_get_robust_list 312 x32 531;
    INIT_MODULE SYS_init_module 128;
    IOCTL SYS_ioctl 54 x32 514;
    IO_URING_SETUP SYS_io_uring_setup 425;
    KCMP SYS_kcmp 349;
    KEXEC_LOAD SYS_kexec_load 283 x32 528;
    KILL SYS_kill 37;
    MKNODAT SYS_mknodat 297;
    MOUNT SYS_mount 21;
    MOUNT_SETATTR SYS_mount_setattr 442;
    MOVE_MOUNT SYS_move_mount 429;
    OPEN_BY_HANDLE_AT SYS_open_by_handle_at 342;
    OPEN_TREE SYS_open_tree 428;
    PERF_EVENT_OPEN SYS_perf_event_open 336;
    PIDFD_GETFD SYS_pidfd_getfd 438;
    PIDFD_SEND_SIGNAL SYS_pidfd_send_signal 424;
    PIVOT_ROOT SYS_pivot_root 217;
    PRCTL SYS_prctl 172;
    PRLIMIT64 SYS_prlimit64 340;
    PROCESS_VM_READV SYS_process_vm_readv 347 x32 539;
    PROCESS_VM_WRITEV SYS_process_vm_writev 348 x32 540;
    PTRACE SYS_ptrace 26 x32 521;
    SCHED_SETSCHEDULER SYS_sched_setscheduler 156;
    SECCOMP SYS_seccomp 354;
    SENDTO SYS_sendto 369;
    SETNS SYS_setns 346;
    SETSOCKOPT SYS_setsockopt 366 x32 541;
    SOCKET SYS_socket 359;
    SWAPON SYS_swapon 87;
    UMOUNT2 SYS_umount2 52;
    UNSHARE SYS_unshare 310;
    USERFAULTFD SYS_userfaultfd 374;
}

/// `socketcall`, which only the 32-bit table has. By the other doors its number is another call's.
pub(crate) const SOCKETCALL: Number = Number {
    native: u64::MAX,
    i386: 102,
    x32: u64::MAX,
};
