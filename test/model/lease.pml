/*
 * lease.pml - the table of leases of the fleet, as built in csrc/lease.c. fleet.pml has the
 * members, the lock and the waking, and says how to read both. test/model/check.ts runs it through
 * spin; test/model.test.ts compares its points with the points of the C code.
 *
 * A worker claims, renews and releases, also with the token of an ended tenure. A waiter claims,
 * and sleeps while another member holds the lease. An observer reads without the lock. A waiter
 * watches the process of the holder, whose end wakes it, and has a timer for the end of the tenure.
 * With waiters an entry is written in one step.
 *
 * Left out: the hash as a hash (it is the subject), strings, the order of the search for a free
 * entry (any free entry may be taken), reset.
 */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef WAITERS
#define WAITERS 0
#endif
#ifndef LOOKS
#define LOOKS 0 /* reads of an observer */
#endif
#ifndef OPS
#define OPS 2 /* steps of each worker */
#endif
#ifndef ENTRIES
#define ENTRIES 1
#endif
#ifndef SUBJECTS
#define SUBJECTS 1
#endif
#ifndef TICKS
#define TICKS 0 /* ticks of the clock; a tenure lasts one tick */
#endif
#ifndef FORCES
#define FORCES 0 /* releases of a tenure by another member */
#endif
#ifndef KILLS
#define KILLS 0 /* deaths of workers */
#endif
#ifndef WAITER_KILLS
#define WAITER_KILLS 0
#endif
#ifndef JOINS
#define JOINS 0 /* workers that take the index of a dead worker */
#endif

#define MEMBERS (WORKERS + WAITERS)
#define SLEEP (WAITERS > 0)
#define TOKENS (WORKERS * OPS + WAITERS + JOINS * OPS + 1)
#define NONE ENTRIES

#define repair() lease_repair()
#include "fleet.pml"

hidden byte one_holder, tokens_grow, stale_changes_nothing, tenure_whole, yields_to_living;

/* The table: a hash for each entry, and its words. A member and its incarnation are one word. */
byte hash[ENTRIES], seq[ENTRIES], token[ENTRIES], subject[ENTRIES], owner[ENTRIES], expires[ENTRIES];
byte next_token = 1, clock, going = WORKERS, waiting = WAITERS;
#define NOBODY 99
#if TICKS > 0
#define LATER(now) ((now) + 1)
#else
#define LATER(now) 90
#endif

/* Shadow: each tenure by its token; the highest token of each entry. */
byte log_subject[TOKENS], log_owner[TOKENS], log_expires[TOKENS], log_begun[TOKENS], last_token;
bit log_over[TOKENS];

/* The fields that a reader found belong to one tenure. */
#define IS_TENURE(its_token, its_subject, its_owner, its_expires)                                \
	(its_token < TOKENS && its_subject == log_subject[its_token] &&                          \
	 its_owner == log_owner[its_token] && its_expires <= log_expires[its_token] &&           \
	 its_expires >= log_begun[its_token])

/* No other tenure of the subject holds. */
inline check_one_holder(mine)
{
	d_step {
		i = 1;
		do
		:: i < TOKENS ->
			one_holder = (i == mine || log_subject[i] != log_subject[mine] || log_over[i] ||
			              !alive[log_owner[i]] || log_expires[i] <= clock);
			assert(one_holder);
			i++
		:: else -> break
		od;
		i = 0
	}
}

/* ---- changing an entry: the lock is held -------------------------------------------------------- */

inline open_entry(at)
{
#ifndef NO_TENURE_ODD
	seq[at] = seq[at] | 1;
#endif
	/* step: lease.entry.opened */
	skip
}

inline shut_entry(at)
{
	/* step: lease.entry.written */
	seq[at] = (seq[at] | 1) + 1
	/* step: lease.entry.shut */
}

inline free_entry(at)
{
#if WAITERS > 0
	d_step { log_over[token[at]] = 1; token[at] = 0; hash[at] = 0 }
#else
	open_entry(at);
	token[at] = 0;
	/* step: lease.entry.emptied */
	shut_entry(at);
	hash[at] = 0
	/* step: lease.free.after */
#endif
}

/* Stores the words of an entry in any order, except that token is 0 before it is the new token. */
inline write_tenure(at)
{
#if WAITERS > 0
	d_step {
		subject[at] = wanted; owner[at] = SELF(me, my_life); expires[at] = LATER(now);
		token[at] = my_token; last_token = my_token; hash[at] = wanted
	}
#else
	left = 31;
#ifdef NO_TENURE_FENCE
	left = 63; /* 32: seq odd */
#else
	open_entry(at);
#endif
#ifdef NO_EVEN_LAST
	shut_entry(at);
#endif
	do
	:: left & 1 -> subject[at] = wanted; left = left - 1
	:: left & 2 -> owner[at] = SELF(me, my_life); left = left - 2
	:: left & 4 -> expires[at] = LATER(now); left = left - 4
	:: left & 8 -> token[at] = 0; left = left - 8
	:: (left & 16) && !(left & 8) -> left = left - 16;
		CHECK(tokens_grow, my_token > last_token);
		d_step { last_token = my_token; token[at] = my_token }
#ifdef NO_TENURE_FENCE
	:: left & 32 -> seq[at] = seq[at] | 1; left = left - 32
#endif
	:: left == 0 -> break
	od;
	/* step: lease.claim.filled */
#ifndef NO_EVEN_LAST
	shut_entry(at);
#endif
	hash[at] = wanted
	/* step: lease.claim.shown */
#endif
}

inline lease_repair()
{
	/* step: lease.repair.before */
	at = 0;
	do
	:: at < ENTRIES ->
		if
#ifndef NO_REPAIR_ODD
		:: seq[at] % 2 == 1 -> free_entry(at)
#endif
		:: else
		fi;
		at++
	:: else -> break
	od;
	skip;
	at = 0;
	/* step: lease.repair.after */
	fleet_wake()
}

/* Shadow: the members that live while this member is inside. */
inline lock_table()
{
#ifndef NO_TABLE_LOCK
	fleet_lock();
#endif
	/* step: lease.table.locked */
	d_step {
		lived = 0;
		i = 0;
		do
		:: i < 2 * MEMBERS -> lived = lived | (alive[i] << i); i++
		:: else -> break
		od;
		i = 0
	}
}

inline unlock_table()
{
	/* step: lease.table.unlocking */
	fleet_unlock();
	/* step: lease.table.unlocked */
	d_step { lived = 0; at = 0 }
}

/* ---- claims ------------------------------------------------------------------------------------- */

/* Whether this incarnation of the member lives. */
inline member_lives(who)
{
	if
	:: who / 2 == me -> lives = (who == SELF(me, my_life))
	:: who / 2 != me ->
#if defined(NO_LEASE_LIFE) || JOINS == 0
		lives = (named[who / 2] && held[who / 2])
#else
		lives = (life[who / 2] == who % 2);
		lives = (lives && named[who / 2]);
		lives = (lives && held[who / 2]);
#ifndef NO_LIFE_AGAIN
		lives = (lives && life[who / 2] == who % 2)
#else
		skip
#endif
#endif
	fi
}

/* Finds the subject's entry and whether its tenure holds. */
inline look_up()
{
	d_step {
		at = 0;
		do
		:: at < ENTRIES && !(hash[at] == wanted && token[at] != 0 && subject[at] == wanted) -> at++
		:: else -> break
		od;
		lives = 0
	};
	if
	:: at < ENTRIES ->
		CHECK(tenure_whole, IS_TENURE(token[at], subject[at], owner[at], expires[at]));
		if
		:: expires[at] > now ->
#ifdef NO_DEATH_FREES
			lives = 1
#else
			member_lives(owner[at])
#endif
		:: else
		fi
	:: else
	fi
}

inline find_free()
{
	if
	:: at == NONE ->
		at = 0;
		do
		:: at < ENTRIES && token[at] != 0 && expires[at] > now ->
			member_lives(owner[at]);
			if
			:: lives -> at++
			:: else -> break
			fi
		:: else -> break
		od;
		lives = 0
	:: else
	fi
}

/* The next token is stored before it is used. */
inline take_token()
{
	d_step {
		my_token = next_token;
		log_subject[my_token] = wanted; log_owner[my_token] = SELF(me, my_life);
		log_begun[my_token] = LATER(now); log_expires[my_token] = LATER(now)
	};
#ifndef NO_TOKEN_FIRST
	next_token = my_token + 1;
#endif
	/* step: lease.token.taken */
	skip
}

/* Claims "wanted", or finds its holder. */
inline claim()
{
	now = clock;
	/* step: lease.claim.before */
	lock_table();
	look_up();
	if
	:: lives ->
		CHECK(yields_to_living, lived & (1 << owner[at]));
		d_step { lives = 0; in_the_way = owner[at]; until = expires[at] }
	:: else ->
		find_free();
		if
		:: at == NONE -> in_the_way = NOBODY
		:: else ->
			take_token();
			write_tenure(at);
#ifdef NO_TOKEN_FIRST
			next_token = my_token + 1;
#endif
			check_one_holder(my_token);
			d_step { my_entry = at; claimed = 1 }
		fi
	fi;
	unlock_table();
	d_step { now = 0; wanted = 0 }
}

inline renew()
{
	now = clock;
	/* step: lease.renew.before */
	lock_table();
	if
#ifdef NO_RENEW_TOKEN
	:: token[my_entry] != 0 && expires[my_entry] > now ->
#else
	:: token[my_entry] == my_token && expires[my_entry] > now ->
#endif
		CHECK(stale_changes_nothing, token[my_entry] == my_token && !log_over[my_token]);
		CHECK(tenure_whole, subject[my_entry] == log_subject[my_token]);
		member_lives(owner[my_entry]);
		if
		:: lives && LATER(now) > expires[my_entry] ->
			d_step { log_expires[my_token] = LATER(now); expires[my_entry] = LATER(now) };
			/* step: lease.renew.stored */
			check_one_holder(my_token)
		:: else
		fi;
		lives = 0
	:: else
	fi;
	unlock_table();
	now = 0
}

/* Releases a tenure of any member. A tenure ends when it is released or its token is gone. */
inline release()
{
	/* step: lease.release.before */
#ifdef NO_WAKE_AFTER_END
	fleet_wake();
#endif
	lock_table();
	if
#ifdef NO_RELEASE_TOKEN
	:: token[my_entry] != 0 ->
#else
	:: token[my_entry] == my_token ->
#endif
		CHECK(stale_changes_nothing, token[my_entry] == my_token);
#if FORCES > 0 && !defined(NO_WAKE_BEFORE_END)
		if
		:: owner[my_entry] != SELF(me, my_life) -> fleet_wake()
		:: else
		fi;
#endif
#if WAITERS == 0
		log_over[my_token] = 1;
#endif
		free_entry(my_entry);
		claimed = 1
	:: else
	fi;
	unlock_table();
	if
	:: claimed ->
		claimed = 0;
#ifndef NO_WAKE_AFTER_END
		fleet_wake()
#endif
	:: else
	fi
	/* step: lease.release.after */
}

#define MEMBER_STATE                                                                             \
	byte now, wanted, at, left, my_entry, my_token, in_the_way, until, seen, i, lived;       \
	bit lives, claimed, won

inline forget()
{
	d_step {
		now = 0; wanted = 0; at = 0; left = 0; my_entry = 0; my_token = 0; in_the_way = 0; until = 0;
		lived = 0; lives = 0; claimed = 0
	}
}

inline choose_subject()
{
	if
	:: wanted = 1
#if SUBJECTS > 1
	:: wanted = 2
#endif
	fi
}

proctype worker(byte me; bit my_life)
{
	MEMBER_STATE;
	byte ops;
	{
		if
		:: my_life == 1 -> take_index()
		:: else
		fi;
		do
		:: ops < OPS -> ops++; choose_subject(); claim(); claimed = 0; in_the_way = 0; until = 0
		:: ops < OPS && my_token != 0 -> ops++; renew()
		:: ops < OPS && my_token != 0 -> ops++; release()
#if FORCES > 0
		:: d_step { ops < OPS && my_token == 0 && token[0] != 0 -> my_token = token[0]; ops++ }; release(); my_token = 0
#endif
		:: break
		od;
		if
		:: my_token == 0 || log_over[my_token] -> waiting == 0 /* does nothing and lives on */
		:: true
		fi;
		leave();
		forget();
		d_step { ops = 0; going-- }
	} unless {
		killed[me];
		is_gone();
		forget();
		d_step { ops = 0; going-- }
	}
}

/* ---- waiters ------------------------------------------------------------------------------------ */

/* [sleep] store "parked", then check the entry. */
inline park()
{
	/* step: lease.park.before */
	parked = 1
	/* step: lease.park.stored */
}

proctype waiter(byte me; bit my_life)
{
	MEMBER_STATE;
	{
		do
		:: !claimed ->
#ifndef NO_LEASE_PARK_FIRST
			park();
#endif
			wanted = 1;
			claim();
#ifdef NO_LEASE_PARK_FIRST
			park();
#endif
			if
			:: claimed
			:: else ->
				d_step { asleep[me] = !changed[me] };
				if
				:: !asleep[me] -> changed[me] = 0
#ifndef NO_PIDFD
				:: gone[in_the_way / 2] && !alive[in_the_way]
#endif
				:: until <= clock
				fi;
				asleep[me] = 0
			fi;
			d_step { in_the_way = 0; until = 0 }
		:: else -> break
		od;
		leave();
		forget();
		waiting--
	} unless { killed[me]; is_gone(); forget(); waiting-- }
}

/* ---- an observer: no lock ----------------------------------------------------------------------- */

proctype observer()
{
	byte first, its_token, its_subject, its_owner, its_expires, left, looks, at;
	bit whole;
	do
	:: looks < LOOKS && going > 0 ->
		looks++;
		if
		:: at = 0
#if ENTRIES > 1
		:: at = 1
#endif
		fi;
#ifndef NO_TENURE_LOOK_FIRST
		first = seq[at];
#endif
#ifdef NO_TENURE_LOOK_FENCE
		whole = (first % 2 == 0 && seq[at] == first);
#endif
		left = 15;
		do
		:: left & 1 -> its_token = token[at]; left = left - 1
		:: left & 2 -> its_subject = subject[at]; left = left - 2
		:: left & 4 -> its_owner = owner[at]; left = left - 4
		:: left & 8 -> its_expires = expires[at]; left = left - 8
		:: left == 0 -> break
		od;
#ifdef NO_TENURE_LOOK_FIRST
		first = seq[at];
#endif
#ifdef NO_TENURE_SECOND_LOOK
		whole = (first % 2 == 0);
#else
#ifndef NO_TENURE_LOOK_FENCE
		whole = (first % 2 == 0 && seq[at] == first);
#endif
#endif
		if
		:: whole && its_token != 0 ->
			CHECK(tenure_whole, IS_TENURE(its_token, its_subject, its_owner, its_expires))
		:: else
		fi;
		d_step {
			first = 0; its_token = 0; its_subject = 0; its_owner = 0; its_expires = 0; whole = 0; at = 0
		}
	:: break
	od
}

/* ---- chance ------------------------------------------------------------------------------------- */

proctype chance()
{
	byte kills, waiter_kills, joins;
	do
	:: d_step { kills < KILLS && alive[SELF(0, 0)] -> kills++; killed[0] = 1 }
#if WORKERS > 1 && KILLS > 1
	:: d_step { kills < KILLS && alive[SELF(1, 0)] -> kills++; killed[1] = 1 }
#endif
#if WAITER_KILLS > 0
	:: d_step { waiter_kills < WAITER_KILLS && alive[SELF(WORKERS, 0)] -> waiter_kills++; killed[WORKERS] = 1 }
#endif
	:: clock < TICKS -> clock++
#if JOINS > 0
	:: d_step { joins < JOINS && gone[0] -> joins++; going++ }; run worker(0, 1)
#endif
	:: break
	od;
#if TICKS > 0
	clock = TICKS + 1 /* every deadline has passed */
#endif
}

init
{
	byte i;
	atomic {
		do
		:: i < MEMBERS -> is_there(i); i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < MEMBERS ->
			if
			:: i < WORKERS -> run worker(i, 0)
			:: else -> run waiter(i, 0)
			fi;
			i++
		:: else -> break
		od;
		i = 0;
#if LOOKS > 0
		run observer();
#endif
		run chance()
	}
}
