//! F2: the kernel's scheduler. A thread that mostly hands messages on gains by being batched: it does not preempt who
//! woke it, so that more than one message waits when it runs. Changes the calling thread only.

/// Asks for batch scheduling (sched(7), `SCHED_BATCH`) of the calling thread and of what it starts later. Needs no
/// right; where it is refused, nothing changes.
pub fn batch() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: `none` is a valid parameter for this policy and outlives the call; 0 means the calling thread.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) };
    if answer != 0 {
        log::debug!("no batch scheduling: {}", std::io::Error::last_os_error());
    }
}
