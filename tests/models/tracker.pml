/*
 * The tracker alone, with its caller's "received": one record that two episodes use one after the other, a placer, and
 * a thread that leaves the guest (docs/blocktime.md, "Alone, without the rest of the library"; cases 5, 10 and 13).
 *
 * Reader: BlocktimeTracker.Begin, Publish, WaitedPages.Add, then the caller's look, Confirm or Cancel.
 * Placer: received, then End, WaitedPages.MayWait, EndPage, CloseInRange, Close, Release.
 * Leaver: LeaveGuest, RaiseTo, CloseAll; Abandon is the same.
 */
#define READER 0
#define PLACER 1
#define LEAVER 2
#define THREADS 3

#define RECEIVED 0
#define ENTRY 1
#define ENTERED 2
#define GONE 3
#define LIVE 4
#define STATE 5
#define LEFT 6
#define VARIABLES 7

#include "weak.h"

#define OPEN 1
#define CONFIRMED 2
#define CLOSED 3
#define PHASE(w) ((w) & 3)
#define IS_OPEN(w) (PHASE(w) == OPEN || PHASE(w) == CONFIRMED)

/* The state word carries the episode's number (WaitRecord.Word). */
#ifdef NO_SEQUENCE
#define WORD(n, phase) (phase)
#define IS_WORD_OF(w, n) true
#else
#define WORD(n, phase) ((n) * 4 + (phase))
#define IS_WORD_OF(w, n) ((w) / 4 == (n))
#endif

byte published, closed[2], cancelled, placements, life;
bool left;

/* The episode that the record holds now: what a close really closes. */
byte current;

inline let_go(owner)
{
    RELEASE(owner, ENTRY, 0);
    add(owner, GONE, 1);
    RELEASE(owner, LIVE, 0)
}

/* BlocktimeTracker.Close and Release. The leaver ends what began before it left: episode 0. */
inline close(closer, number)
{
    do
    :: word = LOAD(closer, STATE);
        if
        :: !(IS_WORD_OF(word, number) && IS_OPEN(word)) -> break
        :: else ->
#ifdef NO_CLOSING_SWAP
            RELEASE(closer, STATE, WORD(number, CLOSED));
            won = true;
#else
            compare_exchange(closer, STATE, word, WORD(number, CLOSED), won);
#endif
            if
            :: won ->
                assert(closer != LEAVER || current == 0);
                closed[current]++;
                let_go(closer);
                break
            :: else
            fi
        fi
    od
}

inline episode(n)
{
    /* FindLiveWord: the word is free when its last closer is through. */
    LOAD(READER, LIVE) == 0;
    current = n;
    published++;
    RELEASE(READER, ENTRY, 1);
    RELEASE(READER, ENTERED, n + 1);
    RELEASE(READER, LIVE, n + 1);
#ifdef NO_FENCE_PUBLISH
    RELEASE(READER, STATE, WORD(n, OPEN));
#else
    exchange(READER, STATE, WORD(n, OPEN), word);
#endif
#ifndef NO_LOOK_AT_LEFT
    if
    :: n == 0 && LOAD(READER, LEFT) == 1 -> close(READER, n)
    :: else
    fi;
#endif
    if
#ifndef NO_RECHECK_RECEIVED
    :: LOAD(READER, RECEIVED) == 1 ->
        compare_exchange(READER, STATE, WORD(n, OPEN), WORD(n, CLOSED), won);
        if
        :: won -> cancelled++; let_go(READER)
        :: else
        fi
#endif
    :: else -> compare_exchange(READER, STATE, WORD(n, OPEN), WORD(n, CONFIRMED), won)
    fi
}

active proctype Reader()
{
    byte word;
    bool won;

    episode(0);

    /* A discard waits for the placements of the page that are to be recorded; then it is missing again. */
end:
    placements == 1;
    FENCE(READER) && FENCE(PLACER);
    atomic { memory[RECEIVED] = 0; life = 1 }
    episode(1)
}

inline place()
{
    RELEASE(PLACER, RECEIVED, 1);
#ifndef NO_FENCE_END
    FENCE(PLACER);
#endif
    gone = LOAD(PLACER, GONE);
    if
    :: LOAD(PLACER, ENTERED) == gone
    :: else ->
        if
        :: LOAD(PLACER, ENTRY) == 0
        :: else ->
            live = LOAD(PLACER, LIVE);
            if
            :: live == 0
            :: else -> close(PLACER, live - 1)
            fi
        fi
    fi;
    gone = 0;
    live = 0;
    placements++
}

active proctype Placer()
{
    byte word, gone, live;
    bool won;

    if
    :: place();
end:
        life == 1;
        place()
    :: skip
    fi
}

active proctype Leaver()
{
    byte word, live, old;
    bool won;

#ifdef NO_FENCE_LEAVE
    RELEASE(LEAVER, LEFT, 1);
#else
    exchange(LEAVER, LEFT, 1, old);
#endif
    live = LOAD(LEAVER, LIVE);
    word = LOAD(LEAVER, STATE);
    if
    :: live != 0 && IS_WORD_OF(word, live - 1) && IS_OPEN(word) && current == 0 -> close(LEAVER, live - 1)
    :: else
    fi;
    left = true
}

active proctype Everybody()
{
    timeout ->
    assert(left);
    assert(!IS_OPEN(memory[STATE]));
    assert(closed[0] <= 1 && closed[1] <= 1);
    assert(published == closed[0] + closed[1] + cancelled);
    assert(memory[ENTERED] == memory[GONE]);
    assert(memory[ENTRY] == 0 && memory[LIVE] == 0)
}
