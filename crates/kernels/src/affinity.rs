//! Which CPUs there are, and binding a thread to one.
//!
//! For the choice of a default thread count and for pinned pools. Not a topology library: it knows
//! allowed CPUs and SMT siblings on Linux, and elsewhere only how many CPUs the system admits to.

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

/// Binds the calling thread to one CPU. Returns whether the system agreed; never on platforms other than Linux.
pub fn pin_current_thread(cpu: usize) -> bool {
    platform::pin(cpu)
}

#[cfg(target_os = "linux")]
mod platform {
    /// CPUs in this thread's affinity mask.
    pub(super) fn allowed_cpus() -> Vec<usize> {
        // SAFETY: a `cpu_set_t` is plain bits, and zero is its empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a set of the size that is passed; pid 0 is the calling thread.
        if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
            return Vec::new();
        }
        let bits = 8 * size_of::<libc::cpu_set_t>();
        // SAFETY: `cpu` is below the number of bits of the set.
        (0..bits).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }

    /// A name for the physical core that the CPU belongs to.
    pub(super) fn core_of(cpu: usize) -> Option<String> {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(path).ok()
    }

    pub(super) fn pin(cpu: usize) -> bool {
        if cpu >= 8 * size_of::<libc::cpu_set_t>() {
            return false;
        }
        // SAFETY: a `cpu_set_t` is plain bits, and zero is its empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `cpu` is below the number of bits of the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: the pointer is to a set of the size that is passed; pid 0 is the calling thread.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0 }
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

    pub(super) fn pin(_cpu: usize) -> bool {
        false
    }
}
