//! The bench's own network: a namespace with nothing but what is made here.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::sys;

/// Enters it.
pub(crate) fn enter() -> Result<()> {
    sys::own_network().context("cannot make a network namespace")?;
    // What would send packets of its own while others are counted.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let _ = fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    ip("link set lo up")
}

/// A pair of connected devices; the index of the first.
pub(crate) fn veth(name: &str) -> Result<u32> {
    ip(&format!("link add {name} type veth peer name {name}p"))?;
    ip(&format!("link set {name}p up"))?;
    ip(&format!("link set {name} up"))?;
    rustix::net::netdevice::name_to_index(sys::packet_socket()?, name)
        .with_context(|| format!("no device {name}"))
}

fn ip(arguments: &str) -> Result<()> {
    let done = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("cannot run ip")?;
    if !done.status.success() {
        bail!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}
