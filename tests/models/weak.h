/*
 * Weak memory for Promela. What a thread writes goes to its store buffer, and from there to memory at any moment:
 * a STORE may overtake earlier stores of other variables, a RELEASE (Volatile.Write) only leaves when all before it
 * have left. An interlocked operation and FENCE wait until the buffer is empty, as they do on x64 and arm64; loads are
 * made in program order (the acquire reads of the code). A model defines THREADS and VARIABLES first.
 */
#define SLOTS 3

typedef StoreBuffer {
    byte count;
    byte at[SLOTS];
    byte value[SLOTS];
    bool release[SLOTS]
};

byte memory[VARIABLES];
StoreBuffer buffer[THREADS];

#define IN(t, k, v) (buffer[t].count > k && buffer[t].at[k] == (v))

/* A thread sees its own stores. */
#define LOAD(t, v) (IN(t, 2, v) -> buffer[t].value[2] : (IN(t, 1, v) -> buffer[t].value[1] : (IN(t, 0, v) -> buffer[t].value[0] : memory[v])))
#define FENCE(t) (buffer[t].count == 0)

inline push(th, variable, val, rel)
{
    atomic {
        buffer[th].count < SLOTS ->
        buffer[th].at[buffer[th].count] = variable;
        buffer[th].value[buffer[th].count] = val;
        buffer[th].release[buffer[th].count] = rel;
        buffer[th].count++
    }
}

#define STORE(th, variable, val) push(th, variable, val, false)
#define RELEASE(th, variable, val) push(th, variable, val, true)

/* Interlocked.Or and And of one bit, Exchange: a full fence. */
inline exchange(th, variable, val, result)
{
    atomic { FENCE(th) -> result = memory[variable]; memory[variable] = val }
}

/* What is left of it without the fence. */
inline unfenced_exchange(th, variable, val, result)
{
    result = LOAD(th, variable);
    RELEASE(th, variable, val)
}

inline add(th, variable, val)
{
    atomic { FENCE(th) -> memory[variable] = memory[variable] + val }
}

inline compare_exchange(th, variable, expected, desired, success)
{
    atomic {
        FENCE(th) ->
        if
        :: memory[variable] == (expected) -> memory[variable] = desired; success = true
        :: else -> success = false
        fi
    }
}

inline drain(th, slot)
{
    memory[buffer[th].at[slot]] = buffer[th].value[slot];
    if
    :: slot < 1 ->
        buffer[th].at[0] = buffer[th].at[1];
        buffer[th].value[0] = buffer[th].value[1];
        buffer[th].release[0] = buffer[th].release[1]
    :: else
    fi;
    if
    :: slot < 2 ->
        buffer[th].at[1] = buffer[th].at[2];
        buffer[th].value[1] = buffer[th].value[2];
        buffer[th].release[1] = buffer[th].release[2]
    :: else
    fi;
    buffer[th].at[2] = 0;
    buffer[th].value[2] = 0;
    buffer[th].release[2] = false;
    buffer[th].count--
}

#define PASSES(th, slot) (buffer[th].count > slot && !buffer[th].release[slot] && buffer[th].at[slot] != buffer[th].at[0])

#define DRAINS(th) \
    :: atomic { buffer[th].count > 0 -> drain(th, 0) } \
    :: atomic { PASSES(th, 1) -> drain(th, 1) } \
    :: atomic { PASSES(th, 2) && buffer[th].at[2] != buffer[th].at[1] -> drain(th, 2) }

active proctype Memory()
{
end:
    do
    DRAINS(0)
#if THREADS > 1
    DRAINS(1)
#endif
#if THREADS > 2
    DRAINS(2)
#endif
    od
}
