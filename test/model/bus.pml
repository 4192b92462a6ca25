/*
 * bus.pml - one hub, one worker after another, two slots, as built in csrc/slot.c, csrc/stream.c,
 * csrc/wait.c, src/bus/bus.ts and src/bus/stream.ts. test/model/check.ts runs it through spin; test/model.test.ts compares the labels.
 *
 * A statement is one step; atomic and d_step are what one instruction does in C: a swap of the
 * status word (state and generation together), an exchange of hints or of "parked". Memory is
 * sequentially consistent, as those operations are; payloads are written and read in steps of their own.
 *
 * Each side is an event loop: while it is parked it still publishes, completes and withdraws. The
 * killer may end a worker between any two steps. No timer saves a sleeper: a timeout, an abort and
 * a tick happen only within the limits below, so a lost wake-up is an invalid end state.
 *
 * A streamed body is UNITS units, each marked with its request, generation and number, through a
 * ring of RING. Who reads waits only when a look found nothing, who writes only when it found no room.
 *
 * -DNO_... removes the rule of that name; then spin must find an error.
 *
 * Not in it: several workers at once, borrowed responses, streams that end by an error, the end of the
 * hub, weak memory.
 */

#ifndef N
#define N 2 /* requests; the odd ones are idempotent */
#endif
#ifndef CANCELS
#define CANCELS 0 /* encodings that fail */
#endif
#ifndef GIVEUPS
#define GIVEUPS 0 /* timeouts and aborts */
#endif
#ifndef LATES
#define LATES 0 /* second replies, with a token of an earlier request */
#endif
#ifndef KILLS
#define KILLS 0 /* deaths of a worker, at any step */
#endif
#ifndef EVICTS
#define EVICTS 0 /* ends of a life whose process goes on for a while */
#endif
#ifndef STRAYS
#define STRAYS 0 /* answers that a broken worker takes back and overwrites */
#endif
#ifndef LOSSES
#define LOSSES 0 /* words of hints that vanish; each is followed by one tick */
#endif
#ifndef FUTEX_WAITS
#define FUTEX_WAITS 0 /* 1: both sides may wait on the futex: requestSync, sb_worker_wait */
#endif

#ifndef STREAMS
#define STREAMS 0 /* responses that stream */
#endif
#ifndef UPLOADS
#define UPLOADS 0 /* requests whose body streams: the last ones */
#endif
#ifndef IN_TURN
#define IN_TURN 0 /* 1: a request is sent when the one before has let go of its slot */
#endif
#ifndef SLOW
#define SLOW 0 /* 1: who reads at the hub may do so later */
#endif
#ifndef UNITS
#define UNITS 2 /* of a stream */
#endif
#ifndef RING
#define RING 1 /* units */
#endif

#define SLOTS 2
#define LIVES (KILLS + EVICTS + STRAYS + 1)

/* Told in pan's output by name. Hidden: not part of the state. */
hidden byte settled_once, own_response, own_generation, quarantine_holds, request_intact;
hidden byte runs_do_not_overlap, runs_once_unless_idempotent, told_unexecuted_is_true;
hidden byte healthy_is_not_evicted, reserve_finds_free, counts_right, steps_are_legal;
hidden byte source_untouched, units_in_order, stream_whole, flow_counts_right;
#define CHECK(name, holds) d_step { name = (holds); assert(name) }

mtype = { FREE, WRITING, READY, CLAIMED, DONE, ABANDONED, STREAMING };    /* the status word */
mtype = { AT_REST, IN_WRITING, IN_FLIGHT, IN_STREAM, DELIVERED, IN_QUARANTINE };     /* the hub's own last step */
mtype = { NONE, SOCKET, FUTEX };                                          /* parked */
mtype = { WON_FREE, WON_ABANDONED, FOUND_DONE, FOUND_CORRUPT };           /* of a withdrawal */

/* The regions: one per life. Slot s of life e is [e * SLOTS + s]. */
mtype state[LIVES * SLOTS] = FREE;
byte generation[LIVES * SLOTS];
byte request[LIVES * SLOTS];           /* payload: the number of the request */
byte answer[LIVES * SLOTS];            /* payload: the number of the request it answers, */
byte answer_generation[LIVES * SLOTS]; /* and the token it was given for */
byte ready[LIVES], done[LIVES];        /* hints, one bit a slot */
#define HUB 0
#define WORKER 1
mtype parked[LIVES * 2] = NONE; /* side of life e is [e * 2 + side] */
byte futex[LIVES * 2];
bit bell[LIVES * 2]; /* a byte in that side's socket */

/* The flow lines, [slot * 2 + side], and the ring each side writes. */
#if STREAMS + UPLOADS > 0
#define FLOWS 1
#define LINES (LIVES * SLOTS * 2)
#else
#define FLOWS 0
#define LINES 1
#endif
byte sent[LINES], taken[LINES];
bit ended[LINES], waiting[LINES];
byte ring[LINES * RING];
bit response_streams[LINES], request_streams[LINES]; /* of the slot's response line and request line */
byte cancel[LINES];                                  /* by slot: a message, with its token */
#define LINE(place, side) ((place) * 2 + (side))
#define AT(line, number) ((line) * RING + (number) % RING)
#define UNIT(id, token, number) (((id) * 4 + (token)) * 4 + (number))

/* Processes and sockets. */
bit killed[LIVES], gone[LIVES]; /* gone: what the pidfd proves */
bit eof[LIVES];                 /* the hub reads the end of the worker's socket */
bit closed[LIVES];              /* the worker reads the end of the hub's */
bit quit;
byte life, lates, strays, losses, kills, streams;

/* What the user sees. */
bit settled[N + 1], unexecuted[N + 1], retried[N + 1];
byte runs[N + 1];
bit running[N + 1];
byte settled_count;
#define IDEMPOTENT(id) ((id) % 2 == 1)
#define UPLOAD(id) (UPLOADS > 0 && (id) > N - UPLOADS)
byte source[N + 1]; /* units that the source of a request's body has yielded; it yields none twice */

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

/* [park-hub] [park-worker] the waker's half. NO_LOOK_LAST has looked before it published. */
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

/* "parked" is looked at, and only then exchanged away. */
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

/* ---- the rings ------------------------------------------------------------------------------ */

/* Of one side's slot s: its own line, the other side's, whose hints are set and who is woken. Each side has
 * told_... and seen_... of its own. */

inline tell(s, hints_at, sleeper)
{
	hints_at = hints_at | BIT(s);
	wake(sleeper)
}

#define TO_HUB done[me_region], SIDE(me_region, HUB)
#define TO_WORKER ready[HUB_REGION], SIDE(HUB_REGION, WORKER)

/* Whether there is something that was not told yet. */
inline flow_moved(s, mine, theirs)
{
	/* label: flow-moved */
	d_step {
		news = (!told[s] || ended[theirs] != told_ended[s] || sent[theirs] != told_sent[s] ||
		        (waiting[mine] && taken[theirs] != told_taken[s]));
		told[s] = 1;
		told_ended[s] = ended[theirs];
		told_sent[s] = sent[theirs];
		told_taken[s] = taken[theirs]
	}
}

inline check_counts(mine, theirs)
{
	flow_counts_right = (sent[theirs] >= taken[mine] && sent[theirs] - taken[mine] <= RING &&
	                     taken[theirs] <= sent[mine]);
	assert(flow_counts_right)
}

/* What a writer sees. */
inline flow_look(mine, theirs)
{
	d_step {
		check_counts(mine, theirs);
		room = (sent[mine] - taken[theirs] < RING)
	}
}

/* The ring has been written: the count, then the hint. */
inline flow_sent(s, mine, hints_at, sleeper)
{
	/* label: flow */
#ifdef NO_SENT_FIRST
	tell(s, hints_at, sleeper);
#endif
	d_step { sent[mine]++; waiting[mine] = 0 };
#ifndef NO_SENT_FIRST
	tell(s, hints_at, sleeper)
#endif
}

/* [room] The ring has been read: the count, then a look whether somebody waits for it. */
inline flow_taken(s, mine, theirs, hints_at, sleeper)
{
#ifdef NO_TAKEN_FIRST
	news = waiting[theirs];
	taken[mine]++;
#else
	taken[mine]++;
	news = waiting[theirs];
#endif
#ifdef NO_KEEP_WAITING
	waiting[mine] = 0;
#endif
	if
	:: news -> news = 0; tell(s, hints_at, sleeper)
	:: else
	fi
}

/* [room] Store, then look: there is room, or somebody will tell. */
inline flow_wait(s, mine, theirs)
{
#ifdef NO_WAITING_FIRST
	needs[s] = (sent[mine] - taken[theirs] == RING);
	waiting[mine] = 1
#else
	waiting[mine] = 1;
	needs[s] = (sent[mine] - taken[theirs] == RING)
#endif
}

/* The slot's rings moved, and its writer waits. */
inline flow_room(s, mine, theirs)
{
	needs[s] = (sent[mine] - taken[theirs] == RING);
	if
	:: !needs[s] -> waiting[mine] = 0
	:: else
	fi
}

/* A reader asks for the next unit: `ended` is looked at before `sent`. */
inline flow_next(s, mine, theirs, id, with, hints_at, sleeper)
{
	/* label: flow-look */
#ifndef NO_ENDED_FIRST
	seen_ended = ended[theirs];
#endif
	d_step {
		check_counts(mine, theirs);
		hungry[s] = (sent[theirs] == taken[mine]);
		if
		:: !hungry[s] ->
			units_in_order = (ring[AT(theirs, taken[mine])] == UNIT(id, with, taken[mine]));
			assert(units_in_order)
		:: else
		fi
	};
#ifdef NO_ENDED_FIRST
	seen_ended = ended[theirs];
#endif
	if
	:: !hungry[s] -> flow_taken(s, mine, theirs, hints_at, sleeper)
	:: hungry[s] && seen_ended ->
		CHECK(stream_whole, taken[mine] == UNITS);
		d_step { hungry[s] = 0; read_all[s] = 1 }
	:: else
	fi;
	seen_ended = 0
}

inline flow_clean(s, mine)
{
	/* label: flow-clean */
	d_step {
		sent[mine] = 0; taken[mine] = 0; ended[mine] = 0; waiting[mine] = 0;
		told[s] = 0; told_ended[s] = 0; told_sent[s] = 0; told_taken[s] = 0
	}
}

/* What each side keeps of its streams. */
#define FLOW_STATE                                                                                       \
	bit told[SLOTS], told_ended[SLOTS], needs[SLOTS], hungry[SLOTS], read_all[SLOTS], open[SLOTS];   \
	byte told_sent[SLOTS], told_taken[SLOTS];                                                        \
	bit seen_ended, room, news
#define FORGET(s)                                                                                        \
	told[s] = 0; told_ended[s] = 0; needs[s] = 0; hungry[s] = 0; read_all[s] = 0; open[s] = 0;       \
	told_sent[s] = 0; told_taken[s] = 0; seen_ended = 0; room = 0; news = 0

/* ---- worker ---------------------------------------------------------------------------------- */

#define MY(s) (me_region * SLOTS + (s))
#define MINE(s) LINE(MY(s), WORKER)
#define THEIRS(s) LINE(MY(s), HUB)

inline claim(s)
{
	/* label: claim */
	d_step { seen = generation[MY(s)]; won = (state[MY(s)] == READY) };
	if
	:: won ->
#if FLOWS && !defined(NO_CLEAN_FIRST)
		flow_clean(s, MINE(s));
#endif
		swap(MY(s), seen, READY, CLAIMED)
#if FLOWS
	:: !won && token[s] != 0 && open[s] ->
		flow_moved(s, MINE(s), THEIRS(s));
		if
		:: news ->
			news = 0;
			if
			:: needs[s] -> flow_room(s, MINE(s), THEIRS(s))
			:: else
			fi;
			if
			:: hungry[s] -> worker_reads(s)
			:: else
			fi
		:: else
		fi
#endif
	:: else
	fi;
	if
	:: won ->
		token[s] = seen;
#if FLOWS
		d_step { open[s] = request_streams[MY(s)]; told[s] = 1 };
		if
		:: open[s] -> tell(s, TO_HUB) /* the hub sends nothing before */
		:: else
		fi;
#ifdef NO_CLEAN_FIRST
		flow_clean(s, MINE(s));
#endif
#endif
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

inline worker_reads(s)
{
	flow_next(s, MINE(s), THEIRS(s), job[s], token[s], TO_HUB)
}

#if !FLOWS || defined(NO_BEGIN_ONCE)
#define MAY_COMPLETE(s) 1
#else
#define MAY_COMPLETE(s) (!begun[s])
#endif

/* A reply of request id, made with this token. */
inline complete(s, with, id)
{
	/* label: complete */
	if
#ifdef NO_TOKEN
	:: token[s] != 0 ->
#else
	:: token[s] != 0 && token[s] == with && MAY_COMPLETE(s) ->
#endif
		d_step { seen = token[s]; token[s] = 0 };
#ifdef NO_ANSWER_FIRST
		swap(MY(s), seen, CLAIMED, DONE);
#endif
		d_step {
			quarantine_holds = (generation[MY(s)] == seen && state[MY(s)] != FREE);
			assert(quarantine_holds);
			answer[MY(s)] = id;
#if FLOWS
			response_streams[MY(s)] = 0;
#endif
			answer_generation[MY(s)] = with
		};
		LOOK_EARLY(SIDE(me_region, HUB));
#ifndef NO_ANSWER_FIRST
		swap(MY(s), seen, CLAIMED, DONE);
#endif
		claim_ended(s);
		if
		:: lates < LATES -> d_step { lates++; late_slot = s; late_token = seen; late_job = id }
		:: strays < STRAYS -> /* never in a sound worker */
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

/* DONE, or the end of the quarantine. */
inline claim_ended(s)
{
	if
	:: won
	:: else -> swap(MY(s), seen, ABANDONED, FREE);
#ifdef NO_FREED_HINT
		won = 0
#endif
	fi;
	if
	:: won -> tell(s, TO_HUB)
	:: else
	fi
}

/* The answer of the running handler is a stream. */
inline begin(s)
{
	/* label: begin */
	d_step { streams++; seen = token[s] };
	d_step {
		quarantine_holds = (generation[MY(s)] == seen && state[MY(s)] != FREE);
		assert(quarantine_holds);
		answer[MY(s)] = job[s];
		answer_generation[MY(s)] = seen;
		response_streams[MY(s)] = 1
	};
	d_step { open[s] = 1; begun[s] = 1 };
	swap(MY(s), seen, CLAIMED, STREAMING);
	if
	:: won -> tell(s, TO_HUB);
		if
		:: lates < LATES -> d_step { lates++; late_slot = s; late_token = seen; late_job = job[s] }
		:: true
		fi
	:: else -> /* the caller has given up */
		token[s] = 0;
		swap(MY(s), seen, CLAIMED, DONE);
		claim_ended(s);
		handler_ended(s)
	fi;
	d_step { won = 0; seen = 0 }
}

inline finish(s)
{
	/* label: finish */
	ended[MINE(s)] = 1;
	d_step { seen = token[s]; token[s] = 0 };
	swap(MY(s), seen, STREAMING, DONE);
	claim_ended(s);
	handler_ended(s);
	d_step { won = 0; seen = 0 }
}

inline handler_ended(s)
{
	d_step {
		running[job[s]] = 0; job[s] = 0;
		begun[s] = 0; stopped[s] = 0; needs[s] = 0; hungry[s] = 0; read_all[s] = 0;
		told_ended[s] = 0; told_sent[s] = 0; told_taken[s] = 0
	}
}

/* One step of the source of an answer. */
inline worker_writes(s)
{
	if
	:: sent[MINE(s)] == UNITS || stopped[s] -> finish(s)
	:: else ->
		flow_look(MINE(s), THEIRS(s));
		if
		:: room -> room = 0;
			d_step {
				quarantine_holds = (generation[MY(s)] == token[s] && state[MY(s)] != FREE);
				assert(quarantine_holds);
				ring[AT(MINE(s), sent[MINE(s)])] = UNIT(job[s], token[s], sent[MINE(s)])
			};
			if
			:: state[MY(s)] == STREAMING && generation[MY(s)] == token[s] ->
				flow_sent(s, MINE(s), TO_HUB)
			:: else -> stopped[s] = 1
			fi
		:: else ->
			if
			:: state[MY(s)] == STREAMING && generation[MY(s)] == token[s] ->
				flow_wait(s, MINE(s), THEIRS(s))
			:: else -> stopped[s] = 1
			fi
		fi
	fi
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

/* Its handlers end with it. */
inline worker_ends()
{
	d_step {
		running[job[0]] = 0; running[job[1]] = 0;
		gone[me] = 1; eof[me] = 1;
		token[0] = 0; token[1] = 0; job[0] = 0; job[1] = 0; hints = 0; won = 0; seen = 0; how = NONE;
		late_job = 0; late_slot = 0; late_token = 0; asleep = NONE; ticket = 0; s = 0; looked = 0;
#if FLOWS
		FORGET(0); FORGET(1); begun[0] = 0; begun[1] = 0; stopped[0] = 0; stopped[1] = 0
#endif
	}
}

#if FLOWS
#define CAN_END(s) (job[s] != 0 && !begun[s] && !hungry[s])
#define CAN_BEGIN(s) (job[s] != 0 && !begun[s] && streams < STREAMS)
#define CAN_READ(s) (job[s] != 0 && request_streams[MY(s)] && !hungry[s] && !read_all[s] && !stopped[s])
#else
#define CAN_END(s) (job[s] != 0)
#endif

/* The message that a caller gave up: for a handler that waits. */
inline worker_hears(s)
{
	d_step {
		if
		:: cancel[MY(s)] == token[s] && (begun[s] || open[s]) -> stopped[s] = 1; needs[s] = 0; hungry[s] = 0
		:: else
		fi;
		cancel[MY(s)] = 0
	}
}

proctype worker(byte me; byte me_region)
{
	byte token[SLOTS], job[SLOTS]; /* claimed; the handler runs while job is not 0 */
	byte hints, seen, late_slot, late_token, late_job, ticket, s;
	mtype how = NONE, asleep = NONE;
	bit won, looked;
#if FLOWS
	bit begun[SLOTS], stopped[SLOTS]; /* its answer streams; nobody wants the rest */
	FLOW_STATE;
#endif
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
#if FLOWS
		:: CAN_BEGIN(0) -> begin(0)
		:: CAN_BEGIN(1) -> begin(1)
		:: begun[0] && !needs[0] -> worker_writes(0)
		:: begun[1] && !needs[1] -> worker_writes(1)
		:: CAN_READ(0) -> worker_reads(0)
		:: CAN_READ(1) -> worker_reads(1)
		:: cancel[MY(0)] != 0 -> worker_hears(0)
		:: cancel[MY(1)] != 0 -> worker_hears(1)
#endif
		:: CAN_END(0) || CAN_END(1) -> /* a handler ends, at any time and in any order */
			if
			:: CAN_END(0) -> s = 0
			:: CAN_END(1) -> s = 1
			fi;
			CHECK(request_intact, request[MY(s)] == job[s]);
			d_step { running[job[s]] = 0; seen = token[s] };
			complete(s, seen, job[s]);
#if FLOWS
			handler_ended(s);
			s = 0
#else
			d_step { job[s] = 0; s = 0 }
#endif
		:: late_job != 0 ->
			complete(late_slot, late_token, late_job);
			d_step { late_job = 0; late_slot = 0; late_token = 0 }
		od;
		skip;
		worker_ends()
	} unless { killed[me]; worker_ends() }
}

/* ---- hub ------------------------------------------------------------------------------------- */

#ifdef NO_NEW_REGION
#define HUB_REGION 0
#else
#define HUB_REGION life
#endif
#define OUR(s) (HUB_REGION * SLOTS + (s))
#define OURS(s) LINE(OUR(s), HUB)
#define ITS(s) LINE(OUR(s), WORKER)

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
#if FLOWS
	close_stream(s);
#ifndef NO_CLEAN_AFTER
	flow_clean(s, OURS(s));
#endif
	open[s] = 0;
#endif
	d_step { shadow[s] = AT_REST; used-- }
}

/* Nothing moves any more, as far as the hub is concerned. */
inline close_stream(s)
{
	d_step { has_source[s] = 0; sending[s] = 0; needs[s] = 0; hungry[s] = 0; read_all[s] = 0 }
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

/* The payload is copied, then the word is looked at again, and only then somebody gets it. */
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

/* What the ring holds, once no more is asked for. */
inline drain(s)
{
	d_step {
		do
		:: taken[OURS(s)] < sent[ITS(s)] ->
			units_in_order = (ring[AT(ITS(s), taken[OURS(s)])] == UNIT(pending[s], our_generation[s], taken[OURS(s)]));
			assert(units_in_order);
			taken[OURS(s)]++
		:: else -> break
		od
	}
}

/* The head of a response that streams, or that did. */
inline accept_stream(s)
{
	d_step {
		copied = answer[OUR(s)]; copied_generation = answer_generation[OUR(s)];
		healthy_is_not_evicted = response_streams[OUR(s)];
		assert(healthy_is_not_evicted);
		own_response = (copied == pending[s]);
		assert(own_response);
		own_generation = (copied_generation == our_generation[s]);
		assert(own_generation);
		copied = 0; copied_generation = 0;
		open[s] = 1;
		shadow[s] = IN_STREAM
	}
}

/* DONE: the rest is copied out, then the slot is let go. */
inline finish_stream(s)
{
	shadow[s] = DELIVERED;
#ifndef NO_DRAIN
	drain(s);
#endif
	CHECK(stream_whole, taken[OURS(s)] == UNITS && ended[ITS(s)]);
	settle(pending[s]);
	pending[s] = 0;
	release(s);
	won = 0
}

inline hub_reads(s)
{
	flow_next(s, OURS(s), ITS(s), pending[s], our_generation[s], TO_WORKER)
}

/* One step of the source of a request's body. */
inline hub_writes(s)
{
	if
	:: source[pending[s]] == UNITS ->
		ended[OURS(s)] = 1;
		sending[s] = 0;
		announce(s)
	:: else ->
		if
		:: shadow[s] != IN_FLIGHT || state[OUR(s)] != READY -> flow_look(OURS(s), ITS(s))
		:: else -> room = (sent[OURS(s)] < RING) /* nothing is the worker's there yet */
		fi;
		if
		:: room -> room = 0;
			d_step {
				ring[AT(OURS(s), sent[OURS(s)])] = UNIT(pending[s], our_generation[s], source[pending[s]]);
				source[pending[s]]++
			};
			flow_sent(s, OURS(s), TO_WORKER)
		:: else -> flow_wait(s, OURS(s), ITS(s))
		fi
	fi
}

/* The rings of a slot moved. */
inline hub_moved(s)
{
	found = 1;
	if
	:: has_source[s] -> d_step { has_source[s] = 0; sending[s] = 1 } /* it is claimed */
	:: else
	fi;
	if
	:: needs[s] -> flow_room(s, OURS(s), ITS(s))
	:: else
	fi;
	if
	:: hungry[s] -> hub_reads(s)
	:: else
	fi
}

inline hub_cancels(s)
{
	close_stream(s);
#ifndef NO_CANCEL
	cancel[OUR(s)] = our_generation[s]
#endif
}

#define STREAMED(s) (STREAMS > 0 && response_streams[OUR(s)])

/* What this slot has for the hub. */
inline look(s)
{
	/* label: look */
	d_step { word = state[OUR(s)]; mine = (generation[OUR(s)] == our_generation[s]) };
	if
	:: shadow[s] == IN_FLIGHT ->
		if
		:: mine && word == DONE && !STREAMED(s) -> deliver(s); found = 1
		:: mine && word == READY
#if FLOWS
		:: mine && (word == STREAMING || (word == DONE && STREAMED(s))) ->
			accept_stream(s);
			hub_moved(s);
			if
			:: word == DONE -> finish_stream(s)
			:: else
			fi
		:: mine && word == CLAIMED ->
			if
			:: open[s] ->
				flow_moved(s, OURS(s), ITS(s));
				if
				:: news -> news = 0; hub_moved(s)
				:: else
				fi
			:: else
			fi
#else
		:: mine && word == CLAIMED
#endif
		:: else -> corrupt()
		fi
#if FLOWS
	:: shadow[s] == IN_STREAM ->
		if
		:: mine && word == DONE -> hub_moved(s); finish_stream(s)
		:: mine && word == STREAMING ->
			flow_moved(s, OURS(s), ITS(s));
			if
			:: news -> news = 0; hub_moved(s)
			:: else
			fi
		:: else -> corrupt()
		fi
#endif
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
#if STREAMS > 0
		if
		:: won
		:: else ->
#ifdef NO_STREAM_QUARANTINE
			swap(OUR(s), our_generation[s], STREAMING, FREE);
			freed = won
#else
			swap(OUR(s), our_generation[s], STREAMING, ABANDONED)
#endif
		fi;
#endif
		if
#ifdef NO_STREAM_QUARANTINE
		:: freed -> put_back(s); result = WON_ABANDONED; freed = 0
		:: won && !freed ->
#else
		:: won ->
#endif
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

inline deliver_any(s)
{
#if FLOWS
	if
	:: STREAMED(s) -> accept_stream(s); finish_stream(s)
	:: else -> deliver(s)
	fi
#else
	deliver(s)
#endif
}

/* Timeout or abort of a request in flight. */
inline give_up(s)
{
	withdraw(s);
	if
	:: result == WON_FREE ->
		CHECK(told_unexecuted_is_true, runs[pending[s]] == 0 || retried[pending[s]]);
		CHECK(source_untouched, source[pending[s]] == 0);
		unexecuted[pending[s]] = !retried[pending[s]];
		settle(pending[s]);
		pending[s] = 0
	:: result == WON_ABANDONED -> settle(pending[s]); pending[s] = 0;
#if FLOWS
		hub_cancels(s)
#endif
	:: result == FOUND_DONE ->
		if
		:: deliver_any(s)                      /* timeout: the answer came first */
		:: shadow[s] = DELIVERED; release(s);  /* abort: it is dropped */
			if
			:: won -> settle(pending[s]); pending[s] = 0
			:: else
			fi
		fi
	:: result == FOUND_CORRUPT -> corrupt()
	fi;
	d_step { result = WON_FREE; won = 0 }
}

inline hub_unpark()
{
	/* label: hub-unpark */
	parked[SIDE(HUB_REGION, HUB)] = NONE;
	asleep = 0
}

inline hub_park()
{
	/* label: hub-park */
	asleep = 1;
	parked[SIDE(HUB_REGION, HUB)] = SOCKET; /* [park-hub] store, then look */
#ifndef NO_RECHECK_HUB
	if
	:: done[HUB_REGION] != 0 -> hub_unpark()
	:: else
	fi
#endif
}

inline poll()
{
	/* label: poll */
	found = 0;
#ifdef NO_HINT_FIRST_HUB
	d_step { bits = (state[OUR(0)] == DONE || state[OUR(0)] == FREE) + 2 * (state[OUR(1)] == DONE || state[OUR(1)] == FREE) };
	d_step { bits = bits & done[HUB_REGION]; done[HUB_REGION] = 0 };
#else
	d_step { bits = done[HUB_REGION]; done[HUB_REGION] = 0 };
#endif
	if
	:: bits & 1 -> look(0)
	:: else
	fi;
	if
	:: (bits & 2) && !doomed -> look(1)
	:: else
	fi;
	bits = 0;
	if
	:: !found && !doomed -> hub_park()
	:: else
	fi;
	found = 0
}

inline announce(s)
{
	LOOK_EARLY(SIDE(HUB_REGION, WORKER));
	ready[HUB_REGION] = ready[HUB_REGION] | BIT(s);
	wake(SIDE(HUB_REGION, WORKER))
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

/* requestSync: only this slot's word ends it. When the worker is gone, the main loop judges. */
inline wait_for(s)
{
	hub_unpark();
	found = 0;
	do
	:: look(s);
		if
		:: found || doomed || eof[life] -> break
		:: else ->
			/* label: hub-sleep */
			ticket = futex[SIDE(HUB_REGION, HUB)];
			parked[SIDE(HUB_REGION, HUB)] = FUTEX; /* [park-hub] store, then look */
#ifndef NO_RECHECK_SLEEP
			if
			:: state[OUR(s)] == READY || state[OUR(s)] == CLAIMED || state[OUR(s)] == STREAMING ->
#endif
				(futex[SIDE(HUB_REGION, HUB)] != ticket || eof[life])
#ifndef NO_RECHECK_SLEEP
			:: else
			fi
#endif
			;
			parked[SIDE(HUB_REGION, HUB)] = NONE
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
#if FLOWS
		d_step {
			request_streams[OUR(s)] = UPLOAD(id); open[s] = UPLOAD(id);
#ifdef NO_TOLD_BY_CLAIM
			sending[s] = UPLOAD(id)
#else
			has_source[s] = UPLOAD(id)
#endif
		};
#endif
		d_step { pending[s] = id; shadow[s] = IN_FLIGHT };
		/* label: publish */
#ifdef NO_WORD_FIRST
		announce(s);
		swap(OUR(s), our_generation[s], WRITING, READY);
#else
		LOOK_EARLY(SIDE(HUB_REGION, WORKER));
		swap(OUR(s), our_generation[s], WRITING, READY);
		ready[HUB_REGION] = ready[HUB_REGION] | BIT(s);
		wake(SIDE(HUB_REGION, WORKER));
#endif
		CHECK(steps_are_legal, won);
		if
		:: FUTEX_WAITS -> wait_for(s)
		:: true
		fi
	fi;
	won = 0
}

#define MAY_RETRY(s) (IDEMPOTENT(pending[s]) && !retried[pending[s]] && source[pending[s]] == 0)

/* The end of a life: each slot by its word, hints ignored. */
inline judge(s)
{
	if
	:: pending[s] != 0 && shadow[s] == DELIVERED -> settle(pending[s]) /* its word changed */
#if FLOWS
	:: pending[s] != 0 && shadow[s] == IN_STREAM -> /* what was sent of it is delivered, then the error */
		withdraw(s);
		if
		:: result == FOUND_DONE -> finish_stream(s)
		:: else -> drain(s); settle(pending[s])
		fi
#endif
	:: pending[s] != 0 && shadow[s] != DELIVERED && shadow[s] != IN_STREAM ->
		withdraw(s);
		if
		:: result == WON_FREE ->
			CHECK(source_untouched, source[pending[s]] == 0);
			queued = queued | BIT(pending[s])
		:: result == WON_ABANDONED && MAY_RETRY(s) ->
			retried[pending[s]] = 1;
#ifdef NO_PROOF_OF_DEATH
			queued = queued | BIT(pending[s])
#else
			retrying = retrying | BIT(pending[s])
#endif
		:: result == WON_ABANDONED && !MAY_RETRY(s) -> settle(pending[s])
		:: result == FOUND_DONE ->
			deliver_any(s);
			if
			:: pending[s] != 0 -> settle(pending[s]) /* changed between the two looks */
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
	closed[life] = 1; /* the socket first */
#ifndef NO_JUDGE
	judge(0);
	judge(1);
#endif
	d_step {
		pending[0] = 0; pending[1] = 0; shadow[0] = AT_REST; shadow[1] = AT_REST;
		our_generation[0] = 0; our_generation[1] = 0;
#if FLOWS
		FORGET(0); FORGET(1); has_source[0] = 0; has_source[1] = 0; sending[0] = 0; sending[1] = 0;
#endif
		used = 0; doomed = 0; life++;
#ifdef NO_NEW_REGION
		state[0] = FREE; state[1] = FREE; generation[0] = 0; generation[1] = 0; ready[0] = 0; done[0] = 0;
		parked[WORKER] = NONE; bell[HUB] = 0; bell[WORKER] = 0;
#endif
		parked[SIDE(HUB_REGION, HUB)] = (asleep -> SOCKET : NONE)
	};
	run worker(life, HUB_REGION)
}

#if FLOWS
#define CAN_HUB_READ(s) (shadow[s] == IN_STREAM && !hungry[s] && !read_all[s])
#else
#define CAN_HUB_READ(s) 0
#endif
#define WITHDRAWABLE(s) (shadow[s] == IN_FLIGHT || shadow[s] == IN_STREAM)

proctype hub()
{
	byte our_generation[SLOTS], pending[SLOTS];
	mtype shadow[SLOTS] = AT_REST;
	mtype word = FREE, how = NONE, result = WON_FREE;
	byte used, copied, copied_generation, bits, ticket, next;
	byte queued = (BIT(N) - 1) * 2, retrying; /* bit id */
	byte cancels, giveups, evicts, ticks;
	bit won, mine, found, doomed, asleep, looked;
#if FLOWS
	bit has_source[SLOTS], sending[SLOTS]; /* a body that is not asked for yet, or is */
	FLOW_STATE;
#endif
#ifdef NO_STREAM_QUARANTINE
	bit freed;
#endif

	run worker(0, 0);
	do
	:: doomed -> end_life()
	:: !doomed && settled_count == N && used == 0 -> break
	:: !doomed && bell[SIDE(HUB_REGION, HUB)] ->
		bell[SIDE(HUB_REGION, HUB)] = 0;
		if
		:: asleep -> hub_unpark()
		:: else
		fi
	:: !doomed && !asleep && (SLOW || (!CAN_HUB_READ(0) && !CAN_HUB_READ(1))) -> poll()
	:: !doomed && queued != 0 && (!IN_TURN || used == 0) && (shadow[0] == AT_REST || shadow[1] == AT_REST) ->
		d_step {
			next = (queued & 2 -> 1 : (queued & 4 -> 2 : 3));
			queued = queued - BIT(next)
		};
		if
		:: shadow[0] == AT_REST -> send(next, 0)
		:: else -> send(next, 1)
		fi;
		next = 0
	:: !doomed && giveups < GIVEUPS && WITHDRAWABLE(0) -> giveups++; give_up(0)
	:: !doomed && giveups < GIVEUPS && WITHDRAWABLE(1) -> giveups++; give_up(1)
#if FLOWS
	:: !doomed && sending[0] && !needs[0] -> hub_writes(0)
	:: !doomed && sending[1] && !needs[1] -> hub_writes(1)
	:: !doomed && CAN_HUB_READ(0) -> hub_reads(0)
	:: !doomed && CAN_HUB_READ(1) -> hub_reads(1)
#endif
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
	atomic {
		run hub();
#if KILLS + LOSSES > 0
		run chance()
#endif
	}
}
