/*
 * clients.pml - several clients of one name, as built in csrc/name.c, door.c, sessions.c and slot_client.c. test/model/check.ts
 * runs it through spin; test/model.test.ts compares the steps. It has three parts, and a search has one of them:
 *
 * NAMES    clients share a name and leave it, and an owner takes it: the locks on one file after another
 * DOORS    workers and clients of a name find each other without a timer
 * REGIONS  workers serve two clients, each in a region of its own: parking, room, claims in turn, moves, a client's death
 *
 * A statement is one step. d_step is one system call (locks, the directory) or one instruction (a swap, an exchange of hints or
 * of "parked"). The killer may end a process between any two steps; then the kernel drops its locks and closes its sockets.
 * Nothing here has a timer, so a process that is never woken is an invalid end state or breaks a check at rest.
 *
 * -DNO_RULE removes the rule of that name; then spin must find an error.
 *
 * Left out: what bus.pml has (payloads, generations, timeouts, the client's own parking), weak memory.
 */

#ifndef NAMES
#define NAMES 0 /* how often the first of two clients takes the name; the other and an owner take it once */
#endif
#ifndef DOORS
#define DOORS 0 /* lives of each client number and of the worker */
#endif
#ifndef REGIONS
#define REGIONS 0 /* requests of the first client */
#endif
#ifndef SECOND
#define SECOND 1 /* requests of the second client */
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef WORKERS
#define WORKERS 1
#endif
#ifndef CONCURRENCY
#define CONCURRENCY 1 /* of a worker, over both clients */
#endif
#ifndef MOVES
#define MOVES 0 /* unclaimed requests that are sent to the other worker */
#endif

hidden byte one_for_each_number, owned_or_shared, lock_is_named, last_removes_all, socket_stays;
hidden byte all_meet, runs_once, claims_in_turn;
#define CHECK(name, holds) d_step { name = (holds); assert(name) }
#define BIT(n) (1 << (n))

byte kills;

#if NAMES
/* ---- the locks on a name --------------------------------------------------------------------- */

#define CLIENTS 2
#define OWNER CLIENTS     /* the process that owns the name */
#define FILES (1 + NAMES + CLIENTS) /* file 0: none */

byte named;               /* the file that is called NAME.lock */
byte made;
byte whole[FILES];        /* process + 1 with a write lock on the whole file */
byte shares[FILES];       /* processes with a read lock on byte 0, one bit each */
byte number[FILES * CLIENTS]; /* process + 1 with a write lock on byte 1 + k of the file */
byte socket[CLIENTS];     /* process + 1 whose socket is called NAME@k.sock */
bit killed[CLIENTS + 1];

/* What the users of the name believe. */
byte owners, sharers, holds[CLIENTS];
byte alive = CLIENTS + 1;
bit dead_since; /* one was killed since the last client left */

#define OTHER_LOCKS(f) (whole[f] != 0 || (shares[f] & ~BIT(me)) != 0 || \
	(number[(f) * CLIENTS] != 0 && number[(f) * CLIENTS] != me + 1) || \
	(number[(f) * CLIENTS + 1] != 0 && number[(f) * CLIENTS + 1] != me + 1))

inline unlock_all(f)
{
	d_step {
		if :: whole[f] == me + 1 -> whole[f] = 0 :: else fi;
		shares[f] = shares[f] & ~BIT(me);
		if :: number[(f) * CLIENTS] == me + 1 -> number[(f) * CLIENTS] = 0 :: else fi;
		if :: number[(f) * CLIENTS + 1] == me + 1 -> number[(f) * CLIENTS + 1] = 0 :: else fi
	}
}

/* The end of a process, or of its use of the name. */
inline forget()
{
	d_step {
		if :: held && me == OWNER -> owners-- :: else fi;
		if :: held && me != OWNER -> sharers--; holds[k]-- :: else fi;
		held = 0
	}
}

inline lock_whole()
{
	d_step { if :: !OTHER_LOCKS(fd) -> whole[fd] = me + 1; won = 1 :: else -> won = 0 fi }
}

inline lock_shared()
{
#ifdef NO_SHARE_LOCK
	d_step { won = (whole[fd] == 0) }
#else
	d_step { if :: whole[fd] == 0 -> shares[fd] = shares[fd] | BIT(me); won = 1 :: else -> won = 0 fi }
#endif
}

/* Sets won if the lock was taken. */
inline take()
{
	do
	::
		d_step { /* step: name.take.open */
			if
			:: named == 0 -> made++; named = made
			:: else
			fi;
			fd = named
		};
		if
		:: me == OWNER -> lock_whole()
		:: else -> lock_shared()
		fi;
		if
		:: won ->
#ifdef NO_NAMED
			break
#else
			/* step: name.take.named */
			if
			:: named == fd -> break
			:: else -> unlock_all(fd); won = 0 /* it was unlinked meanwhile */
			fi
#endif
		:: else -> /* refused: gives up, or tries again */
			fd = 0;
			if
			:: break
			:: true
			fi
		fi
	od;
	skip
}

/* There are as many numbers as clients, so one is free, except for a moment while another process leaves. */
inline take_number()
{
	k = 0;
	do
	:: k == CLIENTS -> won = 0; break
	:: else ->
		/* step: name.number.lock */
#ifdef NO_NUMBER_LOCK
		if
		:: number[fd * CLIENTS + k] == 0 && whole[fd] == 0 -> number[fd * CLIENTS + k] = me + 1; break
		:: else -> k++
		fi
#else
		d_step {
			won = (number[fd * CLIENTS + k] == 0 && whole[fd] == 0);
			if :: won -> number[fd * CLIENTS + k] = me + 1 :: else -> k++ fi
		};
		if
		:: won -> break
		:: else
		fi
#endif
	od;
	skip
}

inline remove_socket()
{
	d_step { if :: k < CLIENTS -> socket[k] = 0 :: else fi }
}

inline unlink_lock()
{
	d_step {
		if
		:: named != 0 ->
			lock_is_named = ((owners == 0 || me == OWNER) && sharers == 0);
			assert(lock_is_named)
		:: else
		fi;
		named = 0
	}
}

/* The last client that leaves removes what is left. */
inline leave()
{
#ifndef NO_DROP_FIRST
	/* step: name.leave.drop */
	unlock_all(fd);
#endif
	d_step { /* step: name.leave.last */
		won = !OTHER_LOCKS(fd);
#ifdef NO_LAST
		won = 1;
#endif
		if :: won -> whole[fd] = me + 1 :: else fi;
		if :: won && named == fd -> dead_since = 0 :: else fi
	};
	if
	:: won ->
		/* step: name.leave.named */
		if
#ifdef NO_LEAVE_NAMED
		:: true ->
#else
		:: named == fd ->
#endif
#ifndef NO_SWEEP
			d_step { socket[0] = 0; socket[1] = 0 };
#endif
			/* step: name.leave.unlink */
			unlink_lock()
#ifndef NO_LEAVE_NAMED
		:: else
#endif
		fi
	:: else
	fi;
	unlock_all(fd);
	won = 0
}

inline shares_name()
{
	take();
	if
	:: won ->
		take_number();
		if
		:: won ->
			d_step {
				held = 1; sharers++; holds[k]++;
				one_for_each_number = (holds[k] == 1); assert(one_for_each_number);
				owned_or_shared = (owners == 0); assert(owned_or_shared);
				lock_is_named = (named == fd); assert(lock_is_named)
			};
			remove_socket();
			socket[k] = me + 1; /* listens, and is renamed */
			CHECK(socket_stays, socket[k] == me + 1);
			d_step { sharers--; holds[k]--; held = 0 };
			/* step: name.unlock.socket */
#ifdef NO_SOCKET_FIRST
			unlock_all(fd);
#endif
			remove_socket()
		:: else
		fi;
		leave()
	:: else
	fi
}

inline owns_name()
{
	take();
	if
	:: won ->
		d_step {
			held = 1; owners++;
			owned_or_shared = (sharers == 0); assert(owned_or_shared);
			lock_is_named = (named == fd); assert(lock_is_named)
		};
		d_step { owners--; held = 0 };
#ifdef NO_UNLINK_FIRST
		unlock_all(fd);
#endif
		unlink_lock();
		unlock_all(fd)
	:: else
	fi
}

proctype user(byte me; byte lives)
{
	byte fd, k;
	bit won, held;
	{
		if
		:: me == OWNER -> owns_name()
		:: else -> shares_name()
		fi;
		d_step { fd = 0; k = 0; won = 0 }
	} unless {
		killed[me];
		forget();
		unlock_all(fd);
		d_step { killed[me] = 0; dead_since = 1; fd = 0; k = 0; won = 0 }
	};
	if
	:: lives > 1 -> run user(me, lives - 1)
	:: else -> alive--
	fi
}

proctype chance()
{
	do
	:: d_step { kills < KILLS && alive > 0 -> kills++; killed[0] = 1 }
	:: d_step { kills < KILLS && alive > 0 -> kills++; killed[OWNER] = 1 }
	:: break
	od
}

init
{
	atomic { run user(0, NAMES); run user(1, 1); run user(OWNER, 1); run chance() };
	alive == 0;
	CHECK(last_removes_all, dead_since || (named == 0 && socket[0] == 0 && socket[1] == 0))
}
#endif

#if DOORS
/* ---- doors and knocks ------------------------------------------------------------------------ */

#define CLIENTS 2
#define LIFE(k, life) ((k) * (DOORS + 1) + (life))
#define SESSION(w, k) ((w) * CLIENTS + (k))
#define WORKER_LIVES (WORKERS + KILLS)

byte exposed[CLIENTS];         /* the life whose socket is called NAME@k.sock, 0: none */
byte living[CLIENTS];          /* the life that has this number, 0: none */
bit closed[CLIENTS * (DOORS + 1)];
bit doors[WORKER_LIVES], dead[WORKER_LIVES], knocked[WORKER_LIVES];
byte session[WORKER_LIVES * CLIENTS]; /* the life at its other end, 0: none */
bit killed[WORKER_LIVES];
bit quit;

inline look()
{
	k = 0;
	do
	:: k == CLIENTS -> break
	:: else ->
		/* step: name.sockets.look */
		if
		:: session[SESSION(w, k)] == 0 && exposed[k] != 0 ->
			d_step { /* connects: the socket of a dead client refuses */
				if
				:: exposed[k] != 0 && !closed[LIFE(k, exposed[k])] -> session[SESSION(w, k)] = exposed[k]
				:: else
				fi
			}
		:: else
		fi;
		k++
	od;
	skip;
	k = 0
}

proctype worker(byte w)
{
	byte k;
	{
#ifdef NO_DOOR_FIRST
		look();
		doors[w] = 1;
#else
		/* step: door.open.named */
		doors[w] = 1;
		look();
#endif
		do
		:: quit -> break
		:: knocked[w] ->
#ifdef NO_DRAIN_FIRST
			look();
			knocked[w] = 0
#else
			knocked[w] = 0;
			look()
#endif
		:: session[SESSION(w, 0)] != 0 && closed[LIFE(0, session[SESSION(w, 0)])] ->
			session[SESSION(w, 0)] = 0;
#ifndef NO_END_LOOKS
			look()
#endif
		:: session[SESSION(w, 1)] != 0 && closed[LIFE(1, session[SESSION(w, 1)])] ->
			session[SESSION(w, 1)] = 0;
#ifndef NO_END_LOOKS
			look()
#endif
		od
	} unless {
		killed[w];
		d_step { dead[w] = 1; session[SESSION(w, 0)] = 0; session[SESSION(w, 1)] = 0 };
		run worker(WORKERS)
	}
}

inline knock()
{
	w = 0;
	do
	:: w == WORKER_LIVES -> break
	:: else ->
		d_step { /* step: door.knock.send */
			if
			:: doors[w] && dead[w] -> doors[w] = 0
			:: doors[w] && !dead[w] -> knocked[w] = 1
			:: else
			fi
		};
		w++
	od;
	skip;
	w = 0
}

proctype client(byte k; byte life)
{
	byte w;
	d_step { living[k] = life; exposed[k] = 0 }; /* has the number, removes the socket of a dead client */
#ifdef NO_EXPOSE_FIRST
	knock();
	exposed[k] = life;
#else
	/* step: name.expose.named */
	exposed[k] = life;
	knock();
#endif
	if
	:: life < (k == 0 -> DOORS : 1) -> /* the next one has the number before a worker knows the end */
		if
		:: exposed[k] = 0 /* it leaves */
		:: true           /* it is killed */
		fi;
		d_step { closed[LIFE(k, life)] = 1; living[k] = 0 };
		run client(k, life + 1)
	:: else
	fi
}

init
{
	atomic {
		run client(0, 1); run client(1, 1); run worker(0);
		if :: WORKERS > 1 -> run worker(1) :: else fi
	};
	if
	:: KILLS > 0 -> killed[0] = 1
	:: true
	fi;
	timeout; /* everything is at rest */
	CHECK(all_meet, (dead[0] || (session[SESSION(0, 0)] == living[0] && session[SESSION(0, 1)] == living[1])) &&
	      (WORKER_LIVES == 1 || (WORKERS == 1 && !dead[0]) || (session[SESSION(WORKER_LIVES - 1, 0)] == living[0] &&
	       session[SESSION(WORKER_LIVES - 1, 1)] == living[1])));
	quit = 1
}
#endif

#if REGIONS
/* ---- two regions at one worker --------------------------------------------------------------- */

#define CLIENTS 2
#define AT(w, c) ((w) * CLIENTS + (c)) /* the region of worker w and client c; it has one slot */

mtype = { FREE, READY, CLAIMED, DONE };

mtype state[WORKERS * CLIENTS] = FREE;
byte request[WORKERS * CLIENTS];
bit ready[WORKERS * CLIENTS], parked[WORKERS * CLIENTS], bell[WORKERS * CLIENTS];
bit ended[WORKERS * CLIENTS]; /* the worker has ended this session */
bit killed[CLIENTS], closed[CLIENTS]; /* closed: the kernel has closed the client's sockets */
byte passed[WORKERS * CLIENTS]; /* claims of the other client since the hint was set */
byte runs[CLIENTS * (REGIONS + 1)];
byte finished, moves;

#define HAS_WORK(c) (ready[AT(w, c)] && !ended[AT(w, c)])

inline swap(r, from, to)
{
	d_step { won = (state[r] == from); if :: won -> state[r] = to :: else fi }
}

inline unpark()
{
	parked[AT(w, 0)] = 0;
	parked[AT(w, 1)] = 0;
	asleep = 0
}

inline claim(r, other)
{
	d_step { ready[r] = 0 };
#ifdef NO_CLAIM_SWAP
	won = (state[r] == READY);
	if
	:: won -> state[r] = CLAIMED
	:: else
	fi;
#else
	swap(r, READY, CLAIMED);
#endif
	if
	:: won ->
		d_step {
			running++; found = 1;
			runs[request[r]]++;
			runs_once = (runs[request[r]] == 1); assert(runs_once);
			if
			:: ready[other] && !ended[other] && state[other] == READY ->
				passed[other]++;
				claims_in_turn = (passed[other] <= 1); assert(claims_in_turn)
			:: else
			fi
		}
	:: else
	fi
}

/* One claim, of the next client that has a request. */
inline take()
{
	found = 0; c = next;
	do
	:: running == CONCURRENCY || found -> break
	:: else ->
		if
		:: HAS_WORK(c) -> claim(AT(w, c), AT(w, 1 - c))
		:: else
		fi;
		c = 1 - c;
		if
		:: c == next -> break
		:: else
		fi
	od;
	skip;
#ifndef NO_NEXT_CLIENT
	if
	/* step: sessions.take.next */
	:: found -> next = c
	:: else
	fi;
#endif
	c = 0
}

inline looks()
{
	if
	:: running < CONCURRENCY && HAS_WORK(0) -> unpark()
#ifndef NO_LOOK_EACH
	:: running < CONCURRENCY && !HAS_WORK(0) && HAS_WORK(1) -> unpark()
	:: running == CONCURRENCY || (!HAS_WORK(0) && !HAS_WORK(1))
#else
	:: else
#endif
	fi
}

inline park()
{
	asleep = 1;
#ifdef NO_PARK_THEN_LOOK
	looks();
	if
	:: asleep -> parked[AT(w, 0)] = 1; parked[AT(w, 1)] = 1
	:: else
	fi
#else
	/* step: sessions.park.store */
	parked[AT(w, 0)] = 1;
#ifndef NO_PARK_EACH
	parked[AT(w, 1)] = 1;
#endif
	/* step: sessions.park.look */
	looks()
#endif
}

inline answer(r)
{
	d_step { state[r] = DONE; running-- };
#ifndef NO_ROOM_LOOKS
	if
	:: asleep -> unpark()
	:: else
	fi
#endif
}

/* The client of region r has died: its claims end, and only its claims. */
inline end_session(r)
{
	d_step {
#ifndef NO_END_FREES
		if :: state[r] == CLAIMED -> running-- :: else fi;
#endif
		ended[r] = 1
	};
#ifndef NO_END_ROOM
	if
	:: asleep -> unpark()
	:: else
	fi
#endif
}

proctype worker(byte w)
{
	byte c, next, running;
	bit asleep, won, found;
	do
	:: finished == CLIENTS -> break
	:: bell[AT(w, 0)] || bell[AT(w, 1)] ->
		bell[AT(w, 0)] = 0;
		bell[AT(w, 1)] = 0;
		if
		:: asleep -> unpark()
		:: else
		fi
	:: !asleep ->
		take();
		if
		:: !found -> park()
		:: else
		fi
	:: state[AT(w, 0)] == CLAIMED && !ended[AT(w, 0)] -> answer(AT(w, 0)) /* a handler ends */
	:: state[AT(w, 1)] == CLAIMED -> answer(AT(w, 1))
	:: closed[0] && !ended[AT(w, 0)] -> end_session(AT(w, 0))
	od
}

inline publish(r)
{
	request[r] = c * (REGIONS + 1) + n;
	state[r] = READY;
	d_step { ready[r] = 1; passed[r] = 0 };
	if
	:: parked[r] ->
		d_step { won = parked[r]; parked[r] = 0 };
		if
		:: won -> bell[r] = 1
		:: else
		fi
	:: else
	fi
}

inline take_back(r)
{
#ifdef NO_WITHDRAW_SWAP
	won = (state[r] == READY);
	if
	:: won -> state[r] = FREE
	:: else
	fi
#else
	swap(r, READY, FREE)
#endif
}

proctype client(byte c; byte count)
{
	byte n, at;
	bit won;
	{
		do
		:: n == count -> break
		:: else ->
			publish(AT(at, c));
			do
			:: state[AT(at, c)] == DONE -> state[AT(at, c)] = FREE; break
			:: moves < MOVES && state[AT(at, c)] == READY ->
				moves++;
				take_back(AT(at, c));
				if
				:: won -> at = WORKERS - 1 - at; publish(AT(at, c))
				:: else
				fi
			od;
			n++
		od;
		skip
	} unless {
		killed[c];
		closed[c] = 1
	};
	finished++
}

proctype chance()
{
	if
	:: d_step { KILLS > 0 -> kills++; killed[0] = 1 }
	:: true
	fi
}

init
{
	atomic {
		run client(0, REGIONS); run client(1, SECOND); run worker(0); run chance();
		if :: WORKERS > 1 -> run worker(1) :: else fi
	}
}
#endif
