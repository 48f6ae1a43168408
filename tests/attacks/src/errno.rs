//! Names of errnos and signals.

macro_rules! names {
    ($value:expr; $($name:ident)*) => {
        match $value {
            $(libc::$name => stringify!($name).to_owned(),)*
            other => other.to_string(),
        }
    };
}

pub(crate) fn errno(value: i32) -> String {
    names!(value; E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EBADF EBUSY ECHILD
        ECONNREFUSED EEXIST EFAULT EFBIG EINTR EINVAL EIO EISDIR ELOOP EMFILE EMSGSIZE ENETDOWN
        ENFILE ENOBUFS ENODEV ENOENT ENOEXEC ENOKEY ENOMEM ENOPROTOOPT ENOSPC ENOSYS ENOTCONN
        ENOTDIR ENOTSOCK ENOTTY ENXIO EOPNOTSUPP EPERM EPIPE EPROTONOSUPPORT EPROTOTYPE ERANGE
        EROFS ESOCKTNOSUPPORT ESRCH ETIMEDOUT)
}

pub(crate) fn signal(value: i32) -> String {
    names!(value; SIGABRT SIGALRM SIGBUS SIGFPE SIGHUP SIGILL SIGINT SIGKILL SIGPIPE SIGSEGV SIGSYS SIGTERM
        SIGTRAP SIGUSR1 SIGXCPU SIGXFSZ)
}
