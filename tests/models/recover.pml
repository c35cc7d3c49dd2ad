/*
 * The link is lost and comes back: what was asked for and what was on its way is gone, the source is told which pages
 * are received and never sends those again. Every other awaited page is asked for on the new link, once (hazard H44).
 *
 * Reader: FaultReader.Request, Send, SendWaiting, SendUnsent, SendSweep, NextRetry; RamBlock.TryTakeUnsent and
 * MarkOpenRequestsUnsent. Control: PostcopyDestination.Pause and Resume, FaultReader.SetRequester, PageBitmap.Export.
 */
#define READER 0
#define CONTROL 1
#define CHANNEL 2
#define THREADS 3

#define REQUESTED 0 /* pages 0 and 1 */
#define RECEIVED 2
#define UNSENT 4
#define REQUESTER 6 /* 0: none; 1, 2: which link */
#define RESEND 7
#define VARIABLES 8

#include "weak.h"

bool present[2];
bool waits[2];
bool queued[2];
bool kicked;
bool known[2];  /* the exported bitmap: the source drops these pages */
byte up = 1;    /* the link that works; 0 between two */
byte asked[4];  /* of page p on link n: 2 * (n - 1) + p */
bool wire[4];   /* a request on its way */
bool joined;

inline send(pg)
{
    if
    :: up != link -> ok = false
    :: else ->
        atomic {
            asked[2 * (link - 1) + pg]++;
            assert(asked[2 * (link - 1) + pg] == 1);
            wire[2 * (link - 1) + pg] = true
        }
        ok = true
    fi
}

/* RamBlock.TryTakeUnsent, then the request; what was refused stays owed. */
inline send_unsent(owed)
{
    exchange(READER, UNSENT + owed, 0, old);
    if
    :: old == 1 && LOAD(READER, REQUESTED + owed) == 1 && LOAD(READER, RECEIVED + owed) == 0 ->
        send(owed);
        if
        :: !ok -> exchange(READER, UNSENT + owed, 1, old); RELEASE(READER, RESEND, 1); sweep = true; refused = link
        :: else
        fi
    :: else
    fi
}

inline mark_open(open_page)
{
    if
    :: LOAD(READER, REQUESTED + open_page) == 1 && LOAD(READER, RECEIVED + open_page) == 0 -> exchange(READER, UNSENT + open_page, 1, old)
    :: else
    fi
}

#define HAS_WORK (LOAD(READER, REQUESTER) != 0 && LOAD(READER, REQUESTER) != refused && (sweep || LOAD(READER, RESEND) == 1))

proctype Reader()
{
    byte p, link, refused;
    bit old, again;
    bool ok, sweep;

    do
    :: true ->
        /* poll: it times out only if there was something to do when NextRetry was asked, before it. */
        if
        :: HAS_WORK
        :: else ->
end:
            queued[0] || queued[1] || kicked
        fi;

        /* One turn: the event is drained, messages are served, then what waits is sent. */
        kicked = false;
        if
        :: atomic { queued[0] -> queued[0] = false; p = 0 }
        :: atomic { queued[1] -> queued[1] = false; p = 1 }
        :: else -> goto waiting
        fi;
        if
        :: LOAD(READER, RECEIVED + p) == 1 -> goto waiting
        :: else
        fi;
        exchange(READER, REQUESTED + p, 1, old);
        if
        :: LOAD(READER, RECEIVED + p) == 1 || old == 1 -> goto waiting
        :: else
        fi;
        link = LOAD(READER, REQUESTER);
#ifdef NO_LOOK_AT_RESEND
        again = 0;
#else
        again = LOAD(READER, RESEND);
#endif
        ok = false;
        if
        :: link != 0 && again == 0 && !sweep ->
            send(p);
            if
            :: !ok -> RELEASE(READER, RESEND, 1); refused = link
            :: else
            fi
        :: else
        fi;
        if
        :: !ok -> exchange(READER, UNSENT + p, 1, old); sweep = true
        :: else
        fi;
waiting:
        /* SendWaiting */
        link = LOAD(READER, REQUESTER);
        if
        :: link != 0 && link != refused ->
            exchange(READER, RESEND, 0, again);
            link = LOAD(READER, REQUESTER);
            if
            :: again == 1 -> mark_open(0); mark_open(1); sweep = true
            :: else
            fi;
            if
            :: sweep && link != 0 -> sweep = false; send_unsent(0); send_unsent(1)
            :: else
            fi
        :: else
        fi;
        p = 0;
        link = 0;
        old = 0;
        again = 0;
        ok = false
    od
}

/* The channels and their placer: one for each link, the second after the first has ended. */
inline receive(arrived, n)
{
    wire[2 * (n - 1) + arrived] = false;
    if
    :: known[arrived]
    :: else ->
#ifdef RECEIVED_WHEN_STAGED
        exchange(CHANNEL, RECEIVED + arrived, 1, old);
#endif
        if
        :: n == 1 && up != 1 /* The link broke in the middle of the page: it is dropped. */
        :: else ->
            atomic { present[arrived] = true; waits[arrived] = false; queued[arrived] = false }
            exchange(CHANNEL, RECEIVED + arrived, 1, old)
        fi
    fi
}

proctype Channel()
{
    bit old;

    do
    :: wire[0] && up == 1 -> receive(0, 1)
    :: wire[1] && up == 1 -> receive(1, 1)
    :: up != 1 -> break
    od;
    joined = true;
end:
    do
    :: wire[2] && up == 2 -> receive(0, 2)
    :: wire[3] && up == 2 -> receive(1, 2)
    od
}

proctype Control()
{
    /* The link breaks at any moment; Pause. */
    up = 0;
    RELEASE(CONTROL, REQUESTER, 0);
    kicked = true;

    /* Recovery: the old channel has ended and holds nothing; then the bitmap goes out. */
    joined;
    known[0] = LOAD(CONTROL, RECEIVED) == 1;
    known[1] = LOAD(CONTROL, RECEIVED + 1) == 1;
    up = 2;

    /* FaultReader.SetRequester */
#ifdef LINK_BEFORE_RESEND
    RELEASE(CONTROL, REQUESTER, 2);
    RELEASE(CONTROL, RESEND, 1);
#else
#ifndef NO_RESEND
    RELEASE(CONTROL, RESEND, 1);
#endif
    RELEASE(CONTROL, REQUESTER, 2);
#endif
#ifndef NO_KICK_AFTER_LINK
    FENCE(CONTROL) -> kicked = true
#endif
}

init
{
    atomic {
        memory[REQUESTER] = 1;
        run Reader();
        run Channel();
        run Control();
        run Vcpu(0);
        run Vcpu(1);
        run Everybody()
    }
}

proctype Vcpu(byte v)
{
touch:
    if
    :: present[v]
    :: atomic { !present[v] -> waits[v] = true; queued[v] = true }
        !waits[v];
        goto touch
    fi
}

proctype Everybody()
{
    timeout ->
    assert(present[0] && present[1]);
    assert(memory[RECEIVED] == 1 && memory[RECEIVED + 1] == 1)
}
