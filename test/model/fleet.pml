/*
 * fleet.pml - shared by ring.pml and lease.pml: members, the short lock and waking, as built in csrc/fleet.c and
 * csrc/lock.c. The including model defines MEMBERS, SLEEP and repair(); the process of a member has
 * the variables me, my_life, seen, won and i.
 *
 * A statement is one step; atomic and d_step are one instruction in C. Locks, "parked", heads,
 * generations and the entries of members are sequentially consistent, as in C. Relaxed stores reach
 * memory in any order that a fence or a release allows, even after their process was killed;
 * relaxed loads keep the order that an acquire gives them. There is no store buffer: a store that
 * is only late looks like a slow process.
 *
 * The killer may end a member between any two steps, and another may join with the same index.
 * Waiters for the lock, and readers that must poll soon, check again every few milliseconds: they
 * continue as soon as the word has changed or its owner has ended. A sleeper has no timer: a lost
 * wake-up is an invalid end state, and so is a member that waits for a dead member.
 *
 * -DNO_RULE removes the rule of that name; then spin must find an error. "Shadow" variables are
 * read only by the checks.
 *
 * Left out: members that are stopped for long (SB_EBUSY), the waiters flag of the lock, the file
 * itself, numbers and lengths that no member wrote.
 */

/* Names for pan's output. Hidden: not part of the state. */
#define CHECK(name, holds) d_step { name = (holds); assert(name) }
hidden byte lock_excludes;

/* For each member: the lock on its byte; its entry (named: it has a pid); whether it was killed, and has ended. */
bit held[MEMBERS], life[MEMBERS], named[MEMBERS], killed[MEMBERS], gone[MEMBERS];
bit alive[2 * MEMBERS]; /* shadow: the living members */
#define SELF(index, its_life) (2 * (index) + (its_life))

/* The lock names its owner (index + 1) and the owner's incarnation. */
byte lock, parked;
byte inside; /* shadow: index + 1 of the member in a critical section */
#define OWNER(word) (((word) & 7) - 1)
#define LIVES(word) (OWNER(word) != me && held[OWNER(word)])
#ifdef NO_LOCK_LIFE
#define OWN (me + 1)
#else
#define OWN (me + 1 + 8 * my_life)
#endif

/* Whether the generation differs from the one that a member saw last, and whether the member sleeps in the futex. */
bit changed[MEMBERS], asleep[MEMBERS];

/* ---- the short lock ---------------------------------------------------------------------------- */

inline enter()
{
	CHECK(lock_excludes, inside == 0);
	inside = me + 1
}

inline take_lock_of_the_dead()
{
	d_step {
		won = (lock == seen);
		if
		:: won -> lock = OWN
		:: else
		fi;
		seen = 0
	}
}

#ifdef NO_PROOF_OF_DEATH
#define MAY_TAKE_OVER (lock != 0)
#else
#define MAY_TAKE_OVER (lock != 0 && !LIVES(lock))
#endif

inline fleet_lock()
{
	do
	:: d_step { lock == 0 -> lock = OWN; won = 0 }; break
#ifndef NO_TAKE_OVER
	/* step: fleet.lock.judge */
	:: d_step { MAY_TAKE_OVER -> seen = lock };
		take_lock_of_the_dead();
		if
		:: won -> break
		:: else
		fi
#endif
	/* step: fleet.lock.sleep */
	od;
	skip; /* a break may not lead into a d_step */
	enter();
	if
	:: won -> won = 0; repair()
	:: else
	fi
}

inline fleet_unlock()
{
	d_step {
		inside = 0;
		if
		:: OWNER(lock) == me -> lock = 0
		:: else
		fi
	}
	/* step: fleet.unlock.free */
}

inline adopt_lock()
{
	/* A lock that names our index although we are in no critical section. */
	d_step {
		won = (lock != 0 && OWNER(lock) == me);
		if
		:: won -> lock = OWN
		:: else
		fi
	};
	if
	:: won -> enter(); won = 0; repair(); fleet_unlock()
	:: else
	fi
}

/* ---- waking ------------------------------------------------------------------------------------ */

inline fleet_wake()
{
#if SLEEP
	if
	:: parked == 0
	:: else ->
		/* step: fleet.wake.before */
#ifdef NO_NAMED
		parked = 0;
#else
		parked = me + 2;
#endif
		/* step: fleet.wake.named */
		d_step { i = 0; do :: i < MEMBERS -> changed[i] = 1; i++ :: else -> break od; i = 0 };
		/* step: fleet.wake.changed */
		d_step { i = 0; do :: i < MEMBERS -> asleep[i] = 0; i++ :: else -> break od; i = 0 };
		/* step: fleet.wake.woken */
#ifdef NO_CLEAR_OWN
		parked = 0
#else
		d_step {
			if
			:: parked == me + 2 -> parked = 0
			:: else
			fi
		}
#endif
	fi
#else
	skip
#endif
}

/* ---- joining, leaving -------------------------------------------------------------------------- */

inline take_index()
{
	named[me] = 0;
#ifdef NO_INCARNATION_FIRST
	held[me] = 1;
#endif
	d_step { life[me] = my_life; alive[SELF(me, my_life)] = 1 };
	/* step: fleet.index.counted */
#ifndef NO_INCARNATION_FIRST
	held[me] = 1;
#endif
	/* step: fleet.index.locked */
#ifndef NO_ADOPT
	adopt_lock();
#endif
	named[me] = 1
}

/* The end of a killed member: the kernel releases the lock on its byte. */
inline is_gone()
{
	d_step {
		killed[me] = 0; gone[me] = 1; held[me] = 0; alive[SELF(me, my_life)] = 0;
		asleep[me] = 0; changed[me] = 0; seen = 0; won = 0; i = 0;
		if
		:: inside == me + 1 -> inside = 0
		:: else
		fi
	}
}

inline leave()
{
	d_step { named[me] = 0; alive[SELF(me, my_life)] = 0 };
#ifndef NO_LEAVE_WAKES
	fleet_wake();
#endif
	held[me] = 0
}

/* A member that exists from the start. */
inline is_there(index)
{
	held[index] = 1; named[index] = 1; alive[SELF(index, 0)] = 1
}
