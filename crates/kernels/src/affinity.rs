//! The CPUs of this machine, and binding a thread to one.
//!
//! For the default number of threads and for pinned pools. Not a topology library: it finds allowed CPUs and SMT
//! siblings on Linux, and elsewhere only the number of CPUs.
#![cfg_attr(loom, allow(dead_code, reason = "threads of a model have no CPU"))]

/// One allowed CPU per physical core, in rising order. Never empty.
pub fn physical_cores() -> Vec<usize> {
    let mut allowed = platform::allowed_cpus();
    if allowed.is_empty() {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        allowed = (0..count).collect();
    }
    let mut seen = Vec::new();
    allowed.retain(|&cpu| match platform::core_of(cpu) {
        Some(core) if seen.contains(&core) => false,
        Some(core) => {
            seen.push(core);
            true
        }
        None => true,
    });
    allowed
}

/// How many CPUs the calling thread may use.
pub(crate) fn allowed_cpu_count() -> usize {
    platform::allowed_cpus().len()
}

/// The CPU that the calling thread runs on, where the platform reports it.
#[inline]
pub(crate) fn current_cpu() -> Option<u32> {
    platform::current_cpu()
}

/// Migrates the calling thread off `cpu`, without binding it to another one.
pub(crate) fn leave(cpu: u32) {
    platform::leave(cpu as usize);
}

/// Binds the calling thread to one CPU. Returns whether that succeeded; always false on platforms other than Linux.
pub fn pin_current_thread(cpu: usize) -> bool {
    platform::pin(cpu)
}

#[cfg(target_os = "linux")]
mod platform {
    /// CPUs in a `cpu_set_t`.
    const SET_BITS: usize = 8 * size_of::<libc::cpu_set_t>();

    fn empty_set() -> libc::cpu_set_t {
        // SAFETY: a `cpu_set_t` is plain bits, and zero is its empty set.
        unsafe { std::mem::zeroed() }
    }

    fn allowed_set() -> Option<libc::cpu_set_t> {
        let mut set = empty_set();
        // SAFETY: the pointer is to a set of the size that is passed; pid 0 is the calling thread.
        let outcome = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
        (outcome == 0).then_some(set)
    }

    fn allow(set: &libc::cpu_set_t) -> bool {
        // SAFETY: the pointer is to a set of the size that is passed; pid 0 is the calling thread.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) == 0 }
    }

    /// CPUs in this thread's affinity mask.
    pub(super) fn allowed_cpus() -> Vec<usize> {
        let Some(set) = allowed_set() else {
            return Vec::new();
        };
        // SAFETY: `cpu` is below the number of bits of the set.
        (0..SET_BITS).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }

    /// A name for the physical core that the CPU belongs to.
    pub(super) fn core_of(cpu: usize) -> Option<String> {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(path).ok()
    }

    #[inline]
    pub(super) fn current_cpu() -> Option<u32> {
        // SAFETY: it takes nothing and touches nothing.
        u32::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    pub(super) fn leave(cpu: usize) {
        let Some(allowed) = allowed_set().filter(|_| cpu < SET_BITS) else {
            return;
        };
        let mut others = allowed;
        // SAFETY: `cpu` is below the number of bits of the set.
        unsafe { libc::CPU_CLR(cpu, &mut others) };
        // The system refuses an empty set. On success the thread has migrated when the call returns.
        if allow(&others) {
            allow(&allowed);
        }
    }

    pub(super) fn pin(cpu: usize) -> bool {
        if cpu >= SET_BITS {
            return false;
        }
        let mut set = empty_set();
        // SAFETY: `cpu` is below the number of bits of the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        allow(&set)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    pub(super) fn allowed_cpus() -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn core_of(_cpu: usize) -> Option<String> {
        None
    }

    pub(super) fn current_cpu() -> Option<u32> {
        None
    }

    pub(super) fn leave(_cpu: usize) {}

    pub(super) fn pin(_cpu: usize) -> bool {
        false
    }
}
