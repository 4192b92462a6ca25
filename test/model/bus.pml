/*
 * bus.pml - one client, one worker after another, two slots, as built in csrc/slot_client.c, slot_worker.c, wait.c and
 * src/bus/bus.ts. test/model/check.ts runs it through spin; test/model.test.ts compares the labels.
 *
 * A statement is one step. atomic and d_step are one instruction in C: a swap of the status word
 * (state and generation together), an exchange of hints or of "parked". Memory is sequentially
 * consistent, like these instructions; payloads are written and read in separate steps.
 *
 * Each side is an event loop: while it is parked it still publishes, completes and withdraws. The
 * killer may end a worker between any two steps. No timer wakes a sleeper: timeouts, aborts and
 * ticks happen only within the limits below, so a lost wake-up is an invalid end state.
 *
 * -DNO_RULE removes the rule of that name; then spin must find an error.
 *
 * Left out: several workers at once, borrowed responses, the end of the client, weak memory.
 */

#ifndef N
#define N 2 /* requests; odd ones are idempotent */
#endif
#ifndef CANCELS
#define CANCELS 0 /* encodings that fail */
#endif
#ifndef GIVEUPS
#define GIVEUPS 0 /* timeouts and aborts */
#endif
#ifndef MOVES
#define MOVES 0 /* unclaimed requests that are taken back and sent again */
#endif
#ifndef LATES
#define LATES 0 /* second responses, with the token of an earlier request */
#endif
#ifndef KILLS
#define KILLS 0 /* deaths of a worker, at any step */
#endif
#ifndef EVICTS
#define EVICTS 0 /* evictions; the worker's process runs on for a while */
#endif
#ifndef STRAYS
#define STRAYS 0 /* responses that a broken worker takes back and overwrites */
#endif
#ifndef LOSSES
#define LOSSES 0 /* hint words that vanish; one tick follows each */
#endif
#ifndef FUTEX_WAITS
#define FUTEX_WAITS 0 /* 1: both sides may wait on the futex: requestSync, sb_worker_wait */
#endif

#ifndef HOLDS
#define HOLDS 0 /* 1: both sides may hold their bells while they are awake */
#endif

#define SLOTS 2
#define LIVES (KILLS + EVICTS + STRAYS + 1)

/* Names for pan's output. Hidden: not part of the state. */
hidden byte settled_once, own_response, own_generation, quarantine_holds, request_intact;
hidden byte runs_do_not_overlap, runs_once_unless_idempotent, told_unexecuted_is_true;
hidden byte healthy_is_not_evicted, reserve_finds_free, counts_right, steps_are_legal;
#define CHECK(name, holds) d_step { name = (holds); assert(name) }

mtype = { FREE, WRITING, READY, CLAIMED, DONE, ABANDONED };               /* the status word */
mtype = { AT_REST, IN_WRITING, IN_FLIGHT, DELIVERED, IN_QUARANTINE };     /* the client's own last step */
mtype = { NONE, SOCKET, FUTEX };                                          /* parked */
mtype = { WON_FREE, WON_ABANDONED, FOUND_DONE, FOUND_CORRUPT };           /* results of a withdrawal */

/* The regions, one per worker (life). Slot s of life e is [e * SLOTS + s]. */
mtype state[LIVES * SLOTS] = FREE;
byte generation[LIVES * SLOTS];
byte request[LIVES * SLOTS];           /* payload: the number of the request */
byte answer[LIVES * SLOTS];            /* payload: the number of the answered request, */
byte answer_generation[LIVES * SLOTS]; /* and its token */
byte ready[LIVES], done[LIVES];        /* hints, one bit a slot */
#define CLIENT 0
#define WORKER 1
mtype parked[LIVES * 2] = NONE; /* a side of life e is [e * 2 + side] */
byte futex[LIVES * 2];
bit bell[LIVES * 2]; /* a byte in that side's socket */

/* Processes and sockets. */
bit killed[LIVES], gone[LIVES]; /* gone: what the pidfd proves */
bit eof[LIVES];                 /* the client reads the end of the worker's socket */
bit closed[LIVES];              /* the worker reads the end of the client's */
bit quit;
byte life, lates, strays, losses, kills;

/* What the user sees. */
bit settled[N + 1], unexecuted[N + 1], retried[N + 1];
byte runs[N + 1];
bit running[N + 1];
byte settled_count;
#define IDEMPOTENT(id) ((id) % 2 == 1)

#define BIT(s) (1 << (s))
#define SIDE(e, side) ((e) * 2 + (side))

inline swap(place, gen, from, to)
{
	d_step {
		if
		:: state[place] == from && generation[place] == gen -> state[place] = to; won = 1
		:: else -> won = 0
		fi
	}
}

/* [park-client] [park-worker] the waker's half. With NO_LOOK_LAST it read "parked" before it published. */
inline wake_parked(side)
{
	/* label: wake */
#ifdef NO_CLEAR_FIRST
	how = parked[side];
	if
	:: how == NONE
	:: how == SOCKET -> bell[side] = 1; parked[side] = NONE
	:: how == FUTEX -> futex[side] = (futex[side] + 1) % 4; parked[side] = NONE
	fi;
#else
	d_step { how = parked[side]; parked[side] = NONE };
	if
	:: how == NONE
	:: how == SOCKET -> bell[side] = 1
	:: how == FUTEX -> futex[side] = (futex[side] + 1) % 4
	fi;
#endif
	how = NONE
}

/* Reads "parked" first and exchanges it only if it is set. */
inline wake(side)
{
#ifdef NO_LOOK_LAST
	if
	:: looked -> wake_parked(side)
	:: else
	fi;
	looked = 0
#else
	if
	:: parked[side] != NONE -> wake_parked(side)
	:: else
	fi
#endif
}

#ifdef NO_LOOK_LAST
#define LOOK_EARLY(side) looked = (parked[side] != NONE)
#else
#define LOOK_EARLY(side) skip
#endif

/* [park-client] [park-worker] In a turn, the bell may ring later than the work is published: the waker's half is late, not
 * different. With NO_RING a bell that is due is forgotten. */
inline hold_or_wake(side, awake)
{
	/* label: hold */
	if
	:: wake(side)
	:: HOLDS && awake && parked[side] != NONE -> due = 1
	fi
}

inline ring(side)
{
	/* label: ring */
	if
#ifdef NO_RING
	:: due -> due = 0
#else
	:: due -> due = 0; wake(side)
#endif
	:: else
	fi
}

/* ---- worker ---------------------------------------------------------------------------------- */

#define MY(s) (me_region * SLOTS + (s))

inline claim(s)
{
	/* label: claim */
	d_step { seen = generation[MY(s)]; won = (state[MY(s)] == READY) };
	if
	:: won -> swap(MY(s), seen, READY, CLAIMED)
	:: else
	fi;
	if
	:: won ->
		token[s] = seen;
		d_step { /* the handler starts */
			job[s] = request[MY(s)];
			runs_do_not_overlap = !running[job[s]];
			assert(runs_do_not_overlap);
			runs_once_unless_idempotent = (runs[job[s]] == 0 || retried[job[s]]);
			assert(runs_once_unless_idempotent);
			told_unexecuted_is_true = !unexecuted[job[s]];
			assert(told_unexecuted_is_true);
			running[job[s]] = 1;
			runs[job[s]]++
		}
	:: else
	fi;
	d_step { won = 0; seen = 0 }
}

/* A response to request id, made with this token. */
inline complete(s, with, id)
{
	/* label: complete */
	if
#ifdef NO_TOKEN
	:: token[s] != 0 ->
#else
	:: token[s] != 0 && token[s] == with ->
#endif
		d_step { seen = token[s]; token[s] = 0 };
#ifdef NO_ANSWER_FIRST
		swap(MY(s), seen, CLAIMED, DONE);
#endif
		d_step {
			quarantine_holds = (generation[MY(s)] == seen && state[MY(s)] != FREE);
			assert(quarantine_holds);
			answer[MY(s)] = id;
			answer_generation[MY(s)] = with
		};
		LOOK_EARLY(SIDE(me_region, CLIENT));
#ifndef NO_ANSWER_FIRST
		swap(MY(s), seen, CLAIMED, DONE);
#endif
		if
		:: won
		:: else -> swap(MY(s), seen, ABANDONED, FREE);
#ifdef NO_FREED_HINT
			won = 0
#endif
		fi;
		if
		:: won ->
			done[me_region] = done[me_region] | BIT(s);
			hold_or_wake(SIDE(me_region, CLIENT), asleep == NONE)
		:: else
		fi;
		if
		:: lates < LATES -> d_step { lates++; late_slot = s; late_token = seen; late_job = id }
		:: strays < STRAYS -> /* only a broken worker does this */
			d_step {
				if
				:: state[MY(s)] == DONE && generation[MY(s)] == seen ->
					state[MY(s)] = ABANDONED; answer[MY(s)] = 0; strays++
				:: else
				fi
			}
		:: true
		fi
	:: else
	fi;
	d_step { won = 0; seen = 0 }
}

inline worker_unpark()
{
	/* label: worker-unpark */
	parked[SIDE(me_region, WORKER)] = NONE;
	asleep = NONE
}

inline worker_park(as)
{
	/* label: worker-park */
	ring(SIDE(me_region, CLIENT));
	ticket = futex[SIDE(me_region, WORKER)];
	parked[SIDE(me_region, WORKER)] = as; /* [park-worker] store, then look */
	asleep = as;
#ifndef NO_RECHECK_WORKER
	if
	:: ready[me_region] != 0 -> worker_unpark()
	:: else
	fi
#endif
}

/* The worker's handlers end with it. */
inline worker_ends()
{
	d_step {
		running[job[0]] = 0; running[job[1]] = 0;
		gone[me] = 1; eof[me] = 1;
		token[0] = 0; token[1] = 0; job[0] = 0; job[1] = 0; hints = 0; won = 0; seen = 0; how = NONE;
		late_job = 0; late_slot = 0; late_token = 0; asleep = NONE; ticket = 0; s = 0; looked = 0; due = 0
	}
}

proctype worker(byte me; byte me_region)
{
	byte token[SLOTS], job[SLOTS]; /* claimed; the handler runs while job is not 0 */
	byte hints, seen, late_slot, late_token, late_job, ticket, s;
	mtype how = NONE, asleep = NONE;
	bit won, looked, due;
	{
		do
		:: closed[me] || quit -> break
		:: bell[SIDE(me_region, WORKER)] ->
			bell[SIDE(me_region, WORKER)] = 0;
			if
			:: asleep != NONE -> worker_unpark()
			:: else
			fi
		:: asleep == FUTEX && futex[SIDE(me_region, WORKER)] != ticket -> worker_unpark()
		:: asleep == NONE ->
			/* label: take */
#ifdef NO_HINT_FIRST
			d_step { hints = (state[MY(0)] == READY) + 2 * (state[MY(1)] == READY) };
			d_step { hints = hints & ready[me_region]; ready[me_region] = 0 };
#else
			d_step { hints = ready[me_region]; ready[me_region] = 0 };
#endif
			if
			:: hints == 0 ->
				if
				:: worker_park(SOCKET)
				:: FUTEX_WAITS -> worker_park(FUTEX)
				fi
			:: else ->
				if
				:: hints & 1 -> claim(0)
				:: else
				fi;
				if
				:: hints & 2 -> claim(1)
				:: else
				fi
			fi;
			hints = 0
		:: job[0] != 0 || job[1] != 0 -> /* a handler ends, at any time and in any order */
			if
			:: job[0] != 0 -> s = 0
			:: job[1] != 0 -> s = 1
			fi;
			CHECK(request_intact, request[MY(s)] == job[s]);
			d_step { running[job[s]] = 0; seen = token[s] };
			complete(s, seen, job[s]);
			d_step { job[s] = 0; s = 0 }
		:: late_job != 0 ->
			complete(late_slot, late_token, late_job);
			d_step { late_job = 0; late_slot = 0; late_token = 0 }
		od;
		skip;
		worker_ends()
	} unless { killed[me]; worker_ends() }
}

/* ---- client ---------------------------------------------------------------------------------- */

#ifdef NO_NEW_REGION
#define CLIENT_REGION 0
#else
#define CLIENT_REGION life
#endif
#define OUR(s) (CLIENT_REGION * SLOTS + (s))

inline settle(id)
{
	d_step {
		settled_once = (id != 0 && !settled[id]);
		assert(settled_once);
		settled[id] = 1;
		settled_count++
	}
}

inline put_back(s)
{
	d_step { shadow[s] = AT_REST; used-- }
}

inline release(s)
{
	/* label: release */
	swap(OUR(s), our_generation[s], DONE, FREE);
#ifdef NO_RELEASE_CHECK
	d_step { state[OUR(s)] = FREE; won = 1 };
#endif
	if
	:: won -> put_back(s)
	:: else -> doomed = 1
	fi
}

/* Copies the payload, checks the word again, and only then delivers. */
inline deliver(s)
{
	shadow[s] = DELIVERED;
	d_step { copied = answer[OUR(s)]; copied_generation = answer_generation[OUR(s)] };
	release(s);
	if
	:: won ->
		CHECK(own_response, copied == pending[s]);
		CHECK(own_generation, copied_generation == our_generation[s]);
		settle(pending[s]);
		pending[s] = 0
	:: else
	fi;
	d_step { copied = 0; copied_generation = 0; won = 0 }
}

inline corrupt()
{
	CHECK(healthy_is_not_evicted, strays > 0);
	doomed = 1
}

/* Handles what the slot's word says. */
inline look(s)
{
	/* label: look */
	d_step { word = state[OUR(s)]; mine = (generation[OUR(s)] == our_generation[s]) };
	if
	:: shadow[s] == IN_FLIGHT ->
		if
		:: mine && word == DONE -> deliver(s); found = 1
		:: mine && (word == READY || word == CLAIMED)
		:: else -> corrupt()
		fi
	:: shadow[s] == IN_QUARANTINE ->
		if
		:: mine && word == ABANDONED
		:: mine && word == FREE -> put_back(s); found = 1
		:: else -> corrupt()
		fi
	:: else
	fi;
	d_step { word = FREE; mine = 0 }
}

inline withdraw(s)
{
	/* label: withdraw */
	swap(OUR(s), our_generation[s], READY, FREE);
#ifdef NO_TAKE_BACK
	d_step { if :: won -> state[OUR(s)] = READY :: else fi };
#endif
	if
	:: won -> put_back(s); result = WON_FREE
	:: else ->
#ifdef NO_QUARANTINE
		swap(OUR(s), our_generation[s], CLAIMED, FREE);
#else
		swap(OUR(s), our_generation[s], CLAIMED, ABANDONED);
#endif
		if
		:: won ->
#ifdef NO_QUARANTINE
			put_back(s);
#else
			shadow[s] = IN_QUARANTINE;
#endif
			result = WON_ABANDONED
		:: else ->
			d_step { won = (state[OUR(s)] == DONE && generation[OUR(s)] == our_generation[s]) };
#ifdef NO_DONE_FIRST
			shadow[s] = IN_QUARANTINE; result = WON_ABANDONED
#else
			if
			:: won -> result = FOUND_DONE
			:: else -> result = FOUND_CORRUPT
			fi
#endif
		fi
	fi;
	won = 0
}

/* A request that was not claimed returns to the queue. With NO_RECALL_UNCLAIMED a claimed one does so too. */
inline recall(s)
{
	/* label: recall */
	swap(OUR(s), our_generation[s], READY, FREE);
#ifdef NO_RECALL_UNCLAIMED
	if
	:: won
	:: else -> swap(OUR(s), our_generation[s], CLAIMED, FREE)
	fi;
#endif
	if
	:: won -> put_back(s); queued = queued | BIT(pending[s]); pending[s] = 0
	:: else
	fi;
	won = 0
}

/* Timeout or abort of a request in flight. */
inline give_up(s)
{
	withdraw(s);
	if
	:: result == WON_FREE ->
		CHECK(told_unexecuted_is_true, runs[pending[s]] == 0 || retried[pending[s]]);
		unexecuted[pending[s]] = !retried[pending[s]];
		settle(pending[s]);
		pending[s] = 0
	:: result == WON_ABANDONED -> settle(pending[s]); pending[s] = 0
	:: result == FOUND_DONE ->
		if
		:: deliver(s)                          /* timeout: the response came first */
		:: shadow[s] = DELIVERED; release(s);  /* abort: the response is dropped */
			if
			:: won -> settle(pending[s]); pending[s] = 0
			:: else
			fi
		fi
	:: result == FOUND_CORRUPT -> corrupt()
	fi;
	d_step { result = WON_FREE; won = 0 }
}

inline client_unpark()
{
	/* label: client-unpark */
	parked[SIDE(CLIENT_REGION, CLIENT)] = NONE;
	asleep = 0
}

inline client_park()
{
	/* label: client-park */
	asleep = 1;
	parked[SIDE(CLIENT_REGION, CLIENT)] = SOCKET; /* [park-client] store, then look */
#ifndef NO_RECHECK_CLIENT
	if
	:: done[CLIENT_REGION] != 0 -> client_unpark()
	:: else
	fi
#endif
}

inline poll()
{
	/* label: poll */
	found = 0;
#ifdef NO_HINT_FIRST_CLIENT
	d_step { taken = (state[OUR(0)] == DONE || state[OUR(0)] == FREE) + 2 * (state[OUR(1)] == DONE || state[OUR(1)] == FREE) };
	d_step { taken = taken & done[CLIENT_REGION]; done[CLIENT_REGION] = 0 };
#else
	d_step { taken = done[CLIENT_REGION]; done[CLIENT_REGION] = 0 };
#endif
	if
	:: taken & 1 -> look(0)
	:: else
	fi;
	if
	:: (taken & 2) && !doomed -> look(1)
	:: else
	fi;
	taken = 0;
	if
	:: !found && !doomed -> ring(SIDE(CLIENT_REGION, WORKER)); client_park()
	:: else
	fi;
	found = 0
}

inline announce(s)
{
	LOOK_EARLY(SIDE(CLIENT_REGION, WORKER));
	ready[CLIENT_REGION] = ready[CLIENT_REGION] | BIT(s);
	hold_or_wake(SIDE(CLIENT_REGION, WORKER), !asleep)
}

inline tick(s)
{
	/* label: tick */
	look(s);
#ifndef NO_TICK
	if
	:: shadow[s] == IN_FLIGHT && state[OUR(s)] == READY -> announce(s)
	:: else
	fi;
#endif
	found = 0
}

/* requestSync: only this slot's word ends the wait. When the worker is gone, the main loop decides. */
inline wait_for(s)
{
#ifndef NO_RING_SLEEP
	ring(SIDE(CLIENT_REGION, WORKER));
#endif
	client_unpark();
	found = 0;
	do
	:: look(s);
		if
		:: found || doomed || eof[life] -> break
		:: else ->
			/* label: client-sleep */
			ticket = futex[SIDE(CLIENT_REGION, CLIENT)];
			parked[SIDE(CLIENT_REGION, CLIENT)] = FUTEX; /* [park-client] store, then look */
#ifndef NO_RECHECK_SLEEP
			if
			:: state[OUR(s)] == READY || state[OUR(s)] == CLAIMED ->
#endif
				(futex[SIDE(CLIENT_REGION, CLIENT)] != ticket || eof[life])
#ifndef NO_RECHECK_SLEEP
			:: else
			fi
#endif
			;
			parked[SIDE(CLIENT_REGION, CLIENT)] = NONE
		fi
	od;
	skip;
	d_step { found = 0; ticket = 0 }
}

inline send(id, s)
{
	/* label: reserve */
	d_step {
		reserve_finds_free = (state[OUR(s)] == FREE && generation[OUR(s)] == our_generation[s]);
		assert(reserve_finds_free);
		state[OUR(s)] = WRITING;
#ifdef NO_GENERATION
		generation[OUR(s)] = 1;
#else
		generation[OUR(s)]++;
#endif
		our_generation[s] = generation[OUR(s)];
		shadow[s] = IN_WRITING;
		used++
	};
	if
	:: cancels < CANCELS ->
		/* label: cancel */
		cancels++;
		swap(OUR(s), our_generation[s], WRITING, FREE);
		CHECK(steps_are_legal, won);
		put_back(s);
		settle(id)
	:: true ->
		request[OUR(s)] = id;
		d_step { pending[s] = id; shadow[s] = IN_FLIGHT };
		/* label: publish */
#ifdef NO_WORD_FIRST
		announce(s);
		swap(OUR(s), our_generation[s], WRITING, READY);
#else
		LOOK_EARLY(SIDE(CLIENT_REGION, WORKER));
		swap(OUR(s), our_generation[s], WRITING, READY);
		ready[CLIENT_REGION] = ready[CLIENT_REGION] | BIT(s);
		hold_or_wake(SIDE(CLIENT_REGION, WORKER), !asleep);
#endif
		CHECK(steps_are_legal, won);
		if
		:: FUTEX_WAITS -> wait_for(s)
		:: true
		fi
	fi;
	won = 0
}

/* The end of a life: decides each slot by its word, without hints. */
inline judge(s)
{
	if
	:: pending[s] != 0 && shadow[s] == DELIVERED -> settle(pending[s]) /* its word changed */
	:: pending[s] != 0 && shadow[s] != DELIVERED ->
		withdraw(s);
		if
		:: result == WON_FREE -> queued = queued | BIT(pending[s])
		:: result == WON_ABANDONED && IDEMPOTENT(pending[s]) && !retried[pending[s]] ->
			retried[pending[s]] = 1;
#ifdef NO_PROOF_OF_DEATH
			queued = queued | BIT(pending[s])
#else
			retrying = retrying | BIT(pending[s])
#endif
		:: result == WON_ABANDONED && (!IDEMPOTENT(pending[s]) || retried[pending[s]]) -> settle(pending[s])
		:: result == FOUND_DONE ->
			deliver(s);
			if
			:: pending[s] != 0 -> settle(pending[s]) /* the word changed between the two reads */
			:: else
			fi
		:: result == FOUND_CORRUPT -> settle(pending[s])
		fi
	:: else
	fi;
	d_step { pending[s] = 0; shadow[s] = AT_REST; our_generation[s] = 0; result = WON_FREE }
}

inline end_life()
{
	closed[life] = 1; /* the socket closes first */
#ifndef NO_JUDGE
	judge(0);
	judge(1);
#endif
	d_step {
		pending[0] = 0; pending[1] = 0; shadow[0] = AT_REST; shadow[1] = AT_REST;
		our_generation[0] = 0; our_generation[1] = 0;
		used = 0; doomed = 0; due = 0; life++;
#ifdef NO_NEW_REGION
		state[0] = FREE; state[1] = FREE; generation[0] = 0; generation[1] = 0; ready[0] = 0; done[0] = 0;
		parked[WORKER] = NONE; bell[CLIENT] = 0; bell[WORKER] = 0;
#endif
		parked[SIDE(CLIENT_REGION, CLIENT)] = (asleep -> SOCKET : NONE)
	};
	run worker(life, CLIENT_REGION)
}

proctype client()
{
	byte our_generation[SLOTS], pending[SLOTS];
	mtype shadow[SLOTS] = AT_REST;
	mtype word = FREE, how = NONE, result = WON_FREE;
	byte used, copied, copied_generation, taken, ticket, next;
	byte queued = (BIT(N) - 1) * 2, retrying; /* bit id */
	byte cancels, giveups, moves, evicts, ticks;
	bit won, mine, found, doomed, asleep, looked, due;

	run worker(0, 0);
	do
	:: doomed -> end_life()
	:: !doomed && settled_count == N && used == 0 -> break
	:: !doomed && bell[SIDE(CLIENT_REGION, CLIENT)] ->
		bell[SIDE(CLIENT_REGION, CLIENT)] = 0;
		if
		:: asleep -> client_unpark()
		:: else
		fi
	:: !doomed && !asleep -> poll()
	:: !doomed && queued != 0 && (shadow[0] == AT_REST || shadow[1] == AT_REST) ->
		d_step {
			next = (queued & 2 -> 1 : (queued & 4 -> 2 : 3));
			queued = queued - BIT(next)
		};
		if
		:: shadow[0] == AT_REST -> send(next, 0)
		:: else -> send(next, 1)
		fi;
		next = 0
	:: !doomed && giveups < GIVEUPS && shadow[0] == IN_FLIGHT -> giveups++; give_up(0)
	:: !doomed && giveups < GIVEUPS && shadow[1] == IN_FLIGHT -> giveups++; give_up(1)
	:: !doomed && moves < MOVES && shadow[0] == IN_FLIGHT -> moves++; recall(0)
	:: !doomed && moves < MOVES && shadow[1] == IN_FLIGHT -> moves++; recall(1)
	:: !doomed && evicts < EVICTS && life + 1 < LIVES -> evicts++; end_life()
	:: !doomed && eof[life] -> end_life()
	:: !doomed && retrying != 0 && gone[0] -> d_step { queued = queued | retrying; retrying = 0 }
	:: !doomed && ticks < losses -> ticks++; tick(0); tick(1)
	od;
	skip; /* a break may not lead into a d_step */
	CHECK(counts_right, used == 0 && queued == 0 && retrying == 0 &&
	      shadow[0] == AT_REST && shadow[1] == AT_REST &&
	      state[OUR(0)] == FREE && state[OUR(1)] == FREE);
	quit = 1
}

/* ---- chance ---------------------------------------------------------------------------------- */

proctype chance()
{
	do
	:: d_step { kills < KILLS && life == 0 && !gone[0] && !quit -> kills++; killed[0] = 1 }
	:: d_step { losses < LOSSES && ready[life] != 0 -> ready[life] = 0; losses++ }
	:: d_step { losses < LOSSES && done[life] != 0 -> done[life] = 0; losses++ }
	:: break
	od
}

init
{
	atomic { run client(); run chance() }
}
