//! The network guard: what the sockets of one governed server may do, and how much passes them.
//!
//! An intercepting proxy may live in the server's own process, which has no stop and which nothing
//! can tell from the rest of the server. So the unit is the socket: `bind`, `connect` and `sendto`
//! are compared with rules, and a socket that a rule lets through is tagged with the rule's *slot* (the
//! baseline, or a session), to which it then belongs for good. Each packet of a socket, in either
//! direction, passes only if the socket has a tag, its slot is in use and not ended, and the
//! slot's budgets have room for it.
//!
//! | hook | what |
//! |---|---|
//! | `sock_create` | TCP and UDP only: what else there is has sockets in the kernel that nobody tags |
//! | `bind4`, `bind6` | refused without a rule; port 0 passes, and is no listener by that |
//! | `post_bind4`, `post_bind6` | tags what a listener really was bound to |
//! | `connect4`, `connect6`, `sendmsg4`, `sendmsg6` | refused without a rule; tags |
//! | `setsockopt` | what would send packets elsewhere, or later |
//! | `sock_ops` | counts the connections that were accepted |
//! | `ingress`, `egress` | every packet |
//!
//! Tags are given in `post_bind` because `bind` is asked before the kernel finds out that the
//! socket is bound already, to whatever else. All programs and maps are one server's own: they
//! are attached to its cgroup, and stay there when the agent dies.
//!
//! What each needs of Linux is in `agent/src/kernel/network/mod.rs`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see budget.rs")]

#[path = "../budget.rs"]
mod budget;
mod maps;
mod name;
mod options;
mod packet;
mod rules;
mod slot;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sock_ops},
    programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext},
};
use capwarden_abi::network::{Event, event, protocol};

/// What the programs of all hooks but those of packets answer with too.
const REFUSE: i32 = 0;
const PASS: i32 = 1;

const fn verdict(passes: bool) -> i32 {
    if passes { PASS } else { REFUSE }
}

#[cgroup_sock(sock_create)]
fn create(ctx: SockContext) -> i32 {
    const STREAM: u32 = 1;
    const DATAGRAM: u32 = 2;
    // SAFETY: the context is valid for as long as the program runs.
    let (kind, number) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    let known = (kind == STREAM && number == u32::from(protocol::TCP))
        || (kind == DATAGRAM && number == u32::from(protocol::UDP));
    if !known {
        slot::tell(Event {
            event: event::SOCKET,
            detail: number,
            ..Event::default()
        });
    }
    verdict(known)
}

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    verdict(name::may_bind(&name::Named::v4(&ctx)))
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    verdict(name::may_bind(&name::Named::v6(&ctx)))
}

#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    name::bound(&ctx, name::bound_v4(&ctx));
    PASS
}

#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    name::bound(&ctx, name::bound_v6(&ctx));
    PASS
}

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    verdict(name::may_send(&ctx, &name::Named::v4(&ctx), event::CONNECT))
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    verdict(name::may_send(&ctx, &name::Named::v6(&ctx), event::CONNECT))
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict(name::may_send(&ctx, &name::Named::v4(&ctx), event::SEND))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict(name::may_send(&ctx, &name::Named::v6(&ctx), event::SEND))
}

#[cgroup_sockopt(setsockopt)]
fn set_option(ctx: SockoptContext) -> i32 {
    verdict(options::may_set(&ctx))
}

#[sock_ops]
fn established(ctx: SockOpsContext) -> u32 {
    const PASSIVE_ESTABLISHED: u32 = 5;
    if ctx.op() == PASSIVE_ESTABLISHED {
        packet::accepted(&ctx);
    }
    1
}

#[cgroup_skb(ingress)]
fn ingress(ctx: SkBuffContext) -> i32 {
    verdict(packet::passes::<true>(&ctx))
}

#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    verdict(packet::passes::<false>(&ctx))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// GPL helpers want a GPL-compatible licence string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
