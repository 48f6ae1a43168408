//! One use of a slot: whether it still goes on, and how it ends.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use capwarden_abi::{
    MAX_INTERFACES,
    network::{Event, SlotControl, SlotState, ended, event},
};

use crate::{
    budget::Counter,
    maps::{CONTROL, EVENTS, STATE, TOTALS},
};

/// As in `guard.rs`: how far away the deadline must be for one look at the clock to do for a
/// whole kernel tick.
const FAR: u64 = 250_000_000;

#[derive(Clone, Copy)]
pub struct Slot {
    control: *const SlotControl,
    state: *mut SlotState,
    number: u32,
    generation: u64,
}

macro_rules! counters {
    ($($name:ident),+) => {$(
        #[inline(always)]
        pub fn $name(self) -> Counter {
            // SAFETY: a live map value, written by these programs only.
            unsafe { Counter::new(&raw mut (*self.state).$name) }
        }
    )+};
}

macro_rules! terms {
    ($($name:ident = $field:ident: $kind:ty),+) => {$(
        #[inline(always)]
        pub fn $name(self) -> $kind {
            // SAFETY: a live map value, which the agent writes word by word.
            unsafe { ptr::read_volatile(&raw const (*self.control).$field) }
        }
    )+};
}

impl Slot {
    /// None if the slot is used for something else by now.
    #[inline(always)]
    pub fn of(number: u32, generation: u64) -> Option<Self> {
        let slot = Self {
            control: CONTROL.get_ptr(number)?,
            state: STATE.get_ptr_mut(number)?,
            number,
            generation,
        };
        (generation != 0 && slot.current_generation() == generation).then_some(slot)
    }

    /// The use that the slot is in now.
    #[inline(always)]
    pub fn current(number: u32) -> Option<Self> {
        let slot = Self {
            control: CONTROL.get_ptr(number)?,
            state: STATE.get_ptr_mut(number)?,
            number,
            generation: 0,
        };
        let generation = slot.current_generation();
        (generation != 0).then_some(Self { generation, ..slot })
    }

    #[inline(always)]
    pub fn generation(self) -> u64 {
        self.generation
    }

    /// Its number, which to the verifier might be any: it follows every way on for each that it
    /// knows.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.own_number()
    }

    counters!(
        packets, bytes_in, bytes_out, accepted, made, dropped, refused, listeners, ended
    );
    terms!(
        current_generation = generation: u64,
        deadline = deadline: u64,
        packet_cap = packets: u64,
        bytes_in_cap = bytes_in: u64,
        bytes_out_cap = bytes_out: u64,
        accepted_cap = accepted: u64,
        made_cap = made: u64,
        revoked = revoked: u32,
        resets = resets: u32,
        any_interface = any_interface: u32,
        interface_count = interface_count: u32,
        own_number = number: u32
    );

    /// Whether anything may still pass; notices that the deadline has.
    #[inline(always)]
    pub fn goes_on(self) -> bool {
        if self.revoked() != 0 || self.ended().get() != ended::NO {
            return false;
        }
        let deadline = self.deadline();
        if deadline == 0 {
            return true;
        }
        // SAFETY: the helpers have no requirements; the tick is one word, and a stale one only
        // costs another look at the clock.
        unsafe {
            let tick = bpf_jiffies64();
            let early_tick = &raw mut (*self.state).early_tick;
            if early_tick.read_volatile() != tick {
                let now = bpf_ktime_get_boot_ns();
                if now >= deadline {
                    self.end(ended::DEADLINE);
                    return false;
                }
                if deadline - now > FAR {
                    early_tick.write_volatile(tick);
                }
            }
        }
        true
    }

    /// The same, for a time that is known.
    #[inline(always)]
    pub fn goes_on_at(self, now: u64) -> bool {
        let deadline = self.deadline();
        self.revoked() == 0 && self.ended().get() == ended::NO && (deadline == 0 || now < deadline)
    }

    #[inline(always)]
    pub fn grants_interface(self, index: u32) -> bool {
        if self.any_interface() != 0 {
            return true;
        }
        let count = self.interface_count();
        let mut entry = 0;
        while entry < MAX_INTERFACES {
            if entry as u32 >= count {
                return false;
            }
            // SAFETY: `entry` is below the array's length.
            let granted = unsafe {
                ptr::read_volatile(
                    (&raw const (*self.control).interfaces)
                        .cast::<u32>()
                        .add(entry),
                )
            };
            if granted == index {
                return index != 0;
            }
            entry += 1;
        }
        false
    }

    /// Counts one more connection, unless that is one too many.
    #[inline(always)]
    pub fn admits(self, count: Counter, cap: u64, what: u32, event: Event) -> bool {
        if count.add(1) <= cap || cap == 0 {
            return true;
        }
        count.give_back(1);
        self.refuses(what, event);
        false
    }

    /// Counts a connection that is one too many; the first of them is told.
    #[inline(always)]
    pub fn refuses(self, what: u32, event: Event) {
        if self.refused().add(1) == 1 {
            self.tell(Event {
                event: what,
                ..event
            });
        }
    }

    /// Ends the use of the slot, once; whoever gets there first says why.
    #[inline(always)]
    pub fn end(self, reason: u64) {
        if self.ended().set_once(reason) {
            self.tell(Event {
                event: event::ENDED,
                detail: reason as u32,
                ..Event::default()
            });
        }
    }

    #[inline(always)]
    fn tell(self, event: Event) {
        tell(Event {
            slot: self.number,
            generation: self.generation,
            ..event
        });
    }
}

/// Tells the agent, which also looks at the state itself, so that a full ring hides no end.
#[inline(always)]
pub fn tell(event: Event) {
    let event = Event {
        // SAFETY: the helper has no requirements.
        time: unsafe { bpf_ktime_get_boot_ns() },
        ..event
    };
    if EVENTS.output::<Event>(event, 0).is_err()
        && let Some(totals) = TOTALS.get_ptr_mut(0)
    {
        // SAFETY: a live map value, written by these programs only.
        unsafe { Counter::new(&raw mut (*totals).lost) }.add(1);
    }
}
