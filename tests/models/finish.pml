/*
 * The end: somebody waits until nothing is missing, is told by the control thread, and then stops the fault thread. The
 * control thread's and the stuck-fault watch's timeouts are left out: no wake-up may depend on them.
 *
 * Placer: RamBlock.MarkReceived, PostcopyDestination.OnPlaced. Waiter: CompleteAsync, AddWaiter, EndCompleted,
 * FaultReader.Stop. Control: ControlMain, WaitForKick, ServeWaiters. Reader: FaultReader.Main, Wait.
 */
#define PLACER 0
#define WAITER 1
#define CONTROL 2
#define THREADS 3

#define PLACED 0  /* RamBlock._missing, the other way round */
#define WAITERS 1 /* _waiterCount */
#define STOP 2    /* FaultReader._stop */
#define VARIABLES 3

#include "weak.h"

/* Two eventfds, and what the waiters' lock guards. */
bool control_kick, reader_kick;
bool listed, told, reader_ended, ended;

/* WakeEvent.Signal: eventfd's lock lets nobody see the signal before what was written ahead of it. */
inline kick(kicker, event)
{
    atomic { FENCE(kicker) -> event = true }
}

active proctype Placer()
{
    bit old;

#ifdef NO_FENCE_RECEIVED
    unfenced_exchange(PLACER, PLACED, 1, old);
#else
    exchange(PLACER, PLACED, 1, old);
#endif
#ifndef NO_KICK_BY_PLACER
    if
    :: LOAD(PLACER, WAITERS) != 0 -> kick(PLACER, control_kick)
    :: else
    fi
#endif
}

active proctype Waiter()
{
    bit old;

    listed = true;
    exchange(WAITER, WAITERS, 1, old);
#ifndef NO_KICK_BY_WAITER
    kick(WAITER, control_kick);
#endif
    told;
    RELEASE(WAITER, STOP, 1);
#ifndef NO_KICK_BY_STOP
    kick(WAITER, reader_kick);
#endif
    reader_ended;
    ended = true
}

active proctype Control()
{
end:
    do
    :: control_kick ->
#ifndef DRAIN_AFTER_LOOK
        control_kick = false;
#endif
        if
        :: LOAD(CONTROL, WAITERS) != 0 && listed && LOAD(CONTROL, PLACED) == 1 -> told = true
        :: else
        fi;
#ifdef DRAIN_AFTER_LOOK
        control_kick = false;
#endif
    od
}

active proctype Reader()
{
    do
    :: LOAD(CONTROL, STOP) == 1 -> break
    :: else -> reader_kick -> reader_kick = false
    od;
    reader_ended = true
}

active proctype Everybody()
{
    timeout ->
    assert(told && ended)
}
