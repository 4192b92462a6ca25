/*
 * stream.pml - one slot whose requests and responses stream, one after another, between one client and
 * one worker, as built in csrc/stream.c, slot_client.c, slot_worker.c, src/bus/stream.ts, bus.ts and session.ts.
 * bus.pml is the model of the slots, the hints and the parking; test/model/check.ts runs both
 * through spin.
 *
 * A body consists of units, each marked with its request and its number, and passes through a ring
 * of RING units. Stores of a side go through its store buffer and reach memory later, in order, as
 * on x86: the ring, "sent" and "ended" at any time, "taken" and "waiting" before the next step
 * (they are sequentially consistent), and all of them before a swap of the word or a hint. A buffer
 * outlives its process. A notification (hint, and bell if parked) is one step here.
 *
 * Each side is an event loop: it serves its hint, and a handler and a reader run in any order. The
 * killer may end either side between any two steps. There are no timers: a lost wake-up is an
 * invalid end state.
 *
 * -DNO_RULE removes the rule of that name; then spin must find an error.
 *
 * Left out: several slots, a second worker, memory weaker than x86's.
 */

#ifndef N
#define N 1 /* requests */
#endif
#ifndef UP
#define UP 0 /* units of a request's body; 0: it does not stream */
#endif
#ifndef DOWN
#define DOWN 0 /* units of a response's body; 0: it does not stream */
#endif
#ifndef EARLY
#define EARLY 0 /* 1: a response may end before its request's body is read */
#endif
#ifndef RING
#define RING 1 /* units */
#endif
#ifndef NEED
#define NEED 1 /* room that a blocked writer waits for, or less at the end of the body */
#endif
#ifndef FAILS
#define FAILS 0 /* sources of responses that fail */
#endif
#ifndef GIVEUPS
#define GIVEUPS 0 /* timeouts, aborts, readers that leave */
#endif
#ifndef LATES
#define LATES 0 /* second ends of a response, with the token of an earlier request */
#endif
#ifndef KILLS
#define KILLS 0 /* 1: the worker may die */
#endif
#ifndef CLIENT_KILLS
#define CLIENT_KILLS 0 /* 1: the client may die */
#endif

/* Names for pan's output. Hidden: not part of the state. */
hidden byte units_in_order, stream_whole, error_in_place, committed_delivered, counts_legal;
hidden byte own_response, source_untouched, quarantine_holds, healthy_is_not_evicted;
hidden byte reserve_finds_free, ends_clean;
#define CHECK(name, holds) d_step { name = (holds); assert(name) }

mtype = { FREE, WRITING, READY, CLAIMED, STREAMING, DONE, ABANDONED };
mtype = { AT_REST, IN_FLIGHT, IN_STREAM, IN_QUARANTINE };           /* the client's own last step */
mtype = { WON_FREE, WON_ABANDONED, FOUND_DONE, FOUND_CORRUPT };     /* results of a withdrawal */

/* The slot. */
mtype state = FREE;
byte generation, request, answer;
bit response_streams;

/* For each side: the flow line and the ring that it writes. */
#define CLIENT 0
#define WORKER 1
#define SENT 0
#define TAKEN 1
#define ENDED 2
#define WAITING 3
#define CELL 4 /* the first cell of the ring */
#define FIELDS (CELL + RING)
byte line[2 * FIELDS];
#define LINE(side, field) line[(side) * FIELDS + (field)]
#define ALL(side) ((side) == CLIENT -> UP : DOWN) /* units of the body that a side sends */
#define PLACE(number) (CELL + (number) % RING)
#define OPEN 0
#define END 1
#define ERROR 2
#define UNIT(id, number) ((id) * 8 + (number))
#define ERROR_HEAD(id) ((id) * 8 + 7)

/* Stores of a side that have not reached memory: field, value. */
chan buffer[2] = [4] of { byte, byte };
#define BARRIER(me) empty(buffer[me])

bit hint[2];      /* for each side: the other side notified it */
byte cancel;      /* the message, with its token */
bit killed[2], gone[2], quit;
byte made; /* units that the source of the response gave; failed: it gives no more */
bit failed;
byte fails, lates;

inline swap(me, with, from, to)
{
	d_step {
		BARRIER(me);
		if
		:: state == from && generation == with -> state = to; won = 1
		:: else -> won = 0
		fi
	}
}

inline tell(me)
{
	d_step { BARRIER(me); hint[1 - me] = 1 }
}

/* ---- the rings of one side, me ----------------------------------------------------------------- */

#ifdef NO_ROOM_ORDER
#define STORE_SEQ(me, field, value) buffer[me]!field,value
#else
#define STORE_SEQ(me, field, value) buffer[me]!field,value; BARRIER(me)
#endif

inline flow_clean(me)
{
	d_step {
		LINE(me, SENT) = 0; LINE(me, TAKEN) = 0; LINE(me, ENDED) = 0; LINE(me, WAITING) = 0
	}
}

inline flow_forget()
{
	d_step {
		put = 0; got = 0; waits = 0; told = 0; told_ended = 0; told_sent = 0; told_taken = 0;
		needs = 0; hungry = 0; read_all = 0; their_sent = 0; their_taken = 0; their_ended = 0
	}
}

/* Whether the reader has units or an end that it has not passed on. */
inline flow_moved(me)
{
	their_ended = LINE(1 - me, ENDED);
	their_sent = LINE(1 - me, SENT);
	their_taken = LINE(1 - me, TAKEN);
	d_step {
#ifdef NO_TELL_ROOM
		news = (!told || their_ended != told_ended || their_sent != told_sent);
#else
		news = (!told || their_ended != told_ended || their_sent != told_sent ||
		        (waits && their_taken != told_taken));
#endif
		told = 1;
		told_ended = their_ended; told_sent = their_sent; told_taken = their_taken;
		their_ended = 0; their_sent = 0; their_taken = 0
	}
}

/* "ended" is read before "sent". */
inline look_in(me)
{
#ifndef NO_ENDED_FIRST
	their_ended = LINE(1 - me, ENDED);
#endif
	their_sent = LINE(1 - me, SENT);
#ifdef NO_ENDED_FIRST
	their_ended = LINE(1 - me, ENDED);
#endif
	CHECK(counts_legal, their_sent >= got && their_sent - got <= RING)
}

inline look_out(me)
{
	their_taken = LINE(1 - me, TAKEN);
	CHECK(counts_legal, their_taken <= put && put - their_taken <= RING)
}

/* Reads the next unit of request id. */
inline flow_read(me, id)
{
	/* label: flow */
	look_in(me);
	if
	:: their_sent > got ->
		hungry = 0;
#ifndef NO_COPY_FIRST
		CHECK(units_in_order, LINE(1 - me, PLACE(got)) == UNIT(id, got));
#endif
		/* [room] store, then check whether the writer waits */
#ifdef NO_TAKEN_FIRST
		news = LINE(1 - me, WAITING);
#endif
		got++;
		STORE_SEQ(me, TAKEN, got);
#ifndef NO_TAKEN_FIRST
		news = LINE(1 - me, WAITING);
#endif
#ifdef NO_COPY_FIRST
		CHECK(units_in_order, LINE(1 - me, PLACE(got - 1)) == UNIT(id, got - 1));
#endif
#ifdef NO_KEEP_WAITING
		if
		:: waits -> waits = 0; STORE_SEQ(me, WAITING, 0)
		:: else
		fi;
#endif
		if
		:: news -> news = 0; tell(me)
		:: else
		fi
	:: their_sent == got && their_ended == END ->
		CHECK(stream_whole, got == ALL(1 - me));
		hungry = 0; read_all = 1
	:: else -> hungry = 1
	fi;
	d_step { their_sent = 0; their_ended = 0 }
}

#define WANTED (ending -> 1 : (ALL(me) - put < NEED -> ALL(me) - put : NEED))

/* [room] Store "waiting", then check: there is room, or the reader will notify. */
inline flow_wait(me)
{
#ifdef NO_WAITING_FIRST
	look_out(me);
#endif
	if
	:: !waits -> waits = 1; STORE_SEQ(me, WAITING, 1)
	:: else
	fi;
#ifndef NO_WAITING_FIRST
	look_out(me);
#endif
	d_step { needs = (RING - (put - their_taken) < WANTED); their_taken = 0 }
}

/* Writes the next unit, or waits for room. */
inline flow_write(me, id)
{
	/* label: flow */
	look_out(me);
	if
	:: put - their_taken < RING ->
		their_taken = 0;
		CHECK(quarantine_holds, me == CLIENT || (generation == token && state != FREE));
#ifdef NO_RING_FIRST
		buffer[me]!SENT,put + 1;
		buffer[me]!PLACE(put),UNIT(id, put);
#else
		buffer[me]!PLACE(put),UNIT(id, put);
#ifdef NO_SENT_FIRST
		if
		:: put + 1 == ALL(me) -> buffer[me]!ENDED,END
		:: else
		fi;
#endif
#ifdef NO_SENT_THEN_TOLD
		tell(me);
#endif
		buffer[me]!SENT,put + 1;
#endif
		d_step { put++; if :: me == WORKER -> made = put :: else fi };
		if
		:: waits -> waits = 0; STORE_SEQ(me, WAITING, 0)
		:: else
		fi;
#ifndef NO_SENT_THEN_TOLD
		tell(me)
#endif
	:: else -> their_taken = 0; flow_wait(me)
	fi
}

/* Local state of each side's streams. */
#define FLOW_STATE                                                                               \
	byte put, got, told_sent, told_taken, told_ended, their_sent, their_taken, their_ended;  \
	bit waits, told, needs, hungry, read_all, news, won, ending

/* ---- worker ------------------------------------------------------------------------------------ */

inline claim()
{
	d_step { seen = generation; won = (state == READY) };
	if
	:: won ->
#ifndef NO_CLEAN_FIRST
		flow_clean(WORKER);
#endif
		flow_forget();
		swap(WORKER, seen, READY, CLAIMED);
		if
		:: won ->
			d_step { token = seen; job = request; stopped = 0; begun = 0 };
			told = 1;
#ifndef NO_CLAIM_TELLS
			if
			:: UP > 0 -> tell(WORKER)
			:: else
			fi;
#endif
#ifdef NO_CLEAN_FIRST
			flow_clean(WORKER)
#endif
		:: else
		fi
	:: !won && token != 0 && (UP > 0 || begun) && !stopped ->
		flow_moved(WORKER);
		if
		:: news ->
			news = 0;
			if
			:: needs -> flow_wait(WORKER)
			:: else
			fi;
			if
			:: hungry -> flow_read(WORKER, job)
			:: else
			fi
		:: else
		fi
	:: else
	fi;
	d_step { won = 0; seen = 0 }
}

/* DONE, or the end of the quarantine. */
inline claim_ends(from)
{
	swap(WORKER, seen, from, DONE);
	if
	:: won
	:: else -> swap(WORKER, seen, ABANDONED, FREE)
	fi;
	if
	:: won -> tell(WORKER)
	:: else
	fi;
	if
	:: lates < LATES -> lates++; late = seen
	:: true
	fi;
	d_step { job = 0; begun = 0; stopped = 0; ending = 0; seen = 0; won = 0 };
	flow_forget()
}

inline complete()
{
	d_step { seen = token; token = 0 };
	d_step { answer = job; response_streams = 0 };
	claim_ends(CLAIMED)
}

inline begin()
{
	/* label: begin */
	d_step { answer = job; response_streams = 1; made = 0; failed = 0; begun = 1 };
	if
	:: true -> /* with the first unit of its body */
		CHECK(quarantine_holds, generation == token && state != FREE);
		buffer[WORKER]!PLACE(0),UNIT(job, 0);
		buffer[WORKER]!SENT,1;
		d_step { put = 1; made = 1 }
	:: true
	fi;
	swap(WORKER, token, CLAIMED, STREAMING);
	if
	:: won -> tell(WORKER)
	:: else -> stopped = 1 /* the caller has given up */
	fi;
	won = 0
}

/* ending: with an error, whose head lies behind the sent units. */
inline finish()
{
	/* label: finish */
	if
	:: ending && !stopped ->
		buffer[WORKER]!PLACE(put),ERROR_HEAD(job);
		buffer[WORKER]!ENDED,ERROR
	:: else -> buffer[WORKER]!ENDED,END
	fi;
	d_step { seen = token; token = 0 };
	claim_ends(STREAMING)
}

#define STALE (generation != token || (state != CLAIMED && state != STREAMING))

/* The source of the response: one step. */
inline worker_writes()
{
	if
	:: STALE -> stopped = 1
	:: !STALE && !ending && put < DOWN -> flow_write(WORKER, job)
	:: !STALE && !ending && fails < FAILS -> fails++; ending = 1
	:: !STALE && ending ->
#ifdef NO_ERROR_ROOM
		failed = 1; finish()
#else
		flow_wait(WORKER);
		if
		:: !needs -> failed = 1; finish()
		:: else
		fi
#endif
	fi
}

/* The client has ended: the worker reads the committed units, then the error. */
inline client_ended()
{
	if
	:: job != 0 && UP > 0 && !read_all && !stopped ->
		do
		:: LINE(CLIENT, SENT) > got && !STALE -> flow_read(WORKER, job)
		:: else -> break
		od;
		skip; /* a break may not lead into a d_step */
		CHECK(committed_delivered, STALE || got == LINE(CLIENT, SENT))
	:: else
	fi
}

#define MAY_FINISH (begun && (stopped || (put == DOWN && !ending && (EARLY || UP == 0 || read_all))))

proctype worker()
{
	byte token, job, seen, late;
	bit begun, stopped;
	FLOW_STATE;
	{
		do
		:: quit -> break
		:: gone[CLIENT] && BARRIER(CLIENT) -> client_ended(); break
		:: d_step { hint[WORKER] && BARRIER(WORKER) -> hint[WORKER] = 0 }; claim()
		:: cancel != 0 ->
			d_step {
				if
				:: cancel == token -> stopped = 1; needs = 0; hungry = 0
				:: else
				fi;
				cancel = 0
			}
		:: job != 0 && UP > 0 && !hungry && !read_all && !stopped ->
			if
			:: STALE -> stopped = 1
			:: else -> flow_read(WORKER, job)
			fi
		:: job != 0 && DOWN == 0 && !hungry && (EARLY || stopped || UP == 0 || read_all) -> complete()
		:: job != 0 && DOWN > 0 && !begun && !stopped -> begin()
		:: job != 0 && DOWN > 0 && !begun && stopped -> complete()
		:: begun && !stopped && !needs && (put < DOWN || ending || fails < FAILS) -> worker_writes()
		:: MAY_FINISH -> finish()
		:: late != 0 ->
			if
#ifdef NO_TOKEN
			:: token != 0 && begun && !stopped -> late = 0; finish()
#else
			:: token == late && begun && !stopped -> late = 0; finish()
#endif
			:: else -> late = 0
			fi
		od;
		skip;
		gone[WORKER] = 1
	} unless {
		killed[WORKER];
		d_step {
			token = 0; job = 0; seen = 0; late = 0; begun = 0; stopped = 0; ending = 0; won = 0; news = 0;
			gone[WORKER] = 1
		};
		flow_forget()
	}
}

/* ---- client ------------------------------------------------------------------------------------ */

inline put_back()
{
#ifndef NO_CLEAN_AFTER
	flow_clean(CLIENT);
#endif
	flow_forget();
	d_step { shadow = AT_REST; has_source = 0; sending = 0 }
}

inline release()
{
	swap(CLIENT, token, DONE, FREE);
	CHECK(healthy_is_not_evicted, won);
	won = 0;
	put_back()
}

/* Reads the units that were committed and not read. */
inline drain()
{
#ifndef NO_DRAIN
	do
	:: LINE(WORKER, SENT) > got -> flow_read(CLIENT, id)
	:: else -> break
	od;
#endif
	skip
}

inline finish_stream()
{
	drain();
	CHECK(stream_whole, got == (failed -> made : DOWN));
	CHECK(error_in_place, LINE(WORKER, ENDED) == (failed -> ERROR : END) &&
	      (!failed || LINE(WORKER, PLACE(got)) == ERROR_HEAD(id)));
	release()
}

/* The rings moved. */
inline client_moved()
{
	if
	:: has_source -> d_step { has_source = 0; sending = 1 } /* it is claimed */
	:: else
	fi;
	if
	:: needs -> flow_wait(CLIENT)
	:: else
	fi;
	if
	:: hungry -> flow_read(CLIENT, id)
	:: else
	fi
}

inline accept()
{
	CHECK(own_response, answer == id);
	shadow = IN_STREAM
}

inline look()
{
	d_step { word = state; won = (generation == token) };
	if
	:: shadow == AT_REST
	:: shadow == IN_FLIGHT && won && word == DONE && !response_streams ->
		CHECK(own_response, answer == id);
		release()
	:: shadow == IN_FLIGHT && won && (word == STREAMING || (word == DONE && response_streams)) ->
		accept();
		client_moved();
		if
		:: word == DONE -> finish_stream()
		:: else
		fi
	:: shadow == IN_STREAM && won && word == DONE -> client_moved(); finish_stream()
	:: (shadow == IN_FLIGHT && won && word == CLAIMED && UP > 0) ||
	   (shadow == IN_STREAM && won && word == STREAMING) ->
		flow_moved(CLIENT);
		if
		:: news -> news = 0; client_moved()
		:: else
		fi
	:: shadow == IN_FLIGHT && won && (word == READY || (word == CLAIMED && UP == 0))
	:: shadow == IN_QUARANTINE && won && word == ABANDONED
	:: shadow == IN_QUARANTINE && won && word == FREE -> put_back()
	:: else -> CHECK(healthy_is_not_evicted, 0)
	fi;
	d_step { word = FREE; won = 0 }
}

inline withdraw()
{
	result = FOUND_CORRUPT;
	swap(CLIENT, token, READY, FREE);
	if
	:: won -> result = WON_FREE
	:: else ->
#ifdef NO_CLAIMED_FIRST
		swap(CLIENT, token, STREAMING, ABANDONED);
		if
		:: won
		:: else -> swap(CLIENT, token, CLAIMED, ABANDONED)
		fi;
#else
		swap(CLIENT, token, CLAIMED, ABANDONED);
		if
		:: won
#ifdef NO_STREAM_QUARANTINE
		:: else ->
			swap(CLIENT, token, STREAMING, FREE);
			if
			:: won -> result = WON_FREE
			:: else
			fi
#else
		:: else -> swap(CLIENT, token, STREAMING, ABANDONED)
#endif
		fi;
#endif
		if
		:: won && result == FOUND_CORRUPT -> result = WON_ABANDONED
		:: !won && state == DONE -> result = FOUND_DONE
		:: else
		fi
	fi;
	won = 0;
	CHECK(healthy_is_not_evicted, result != FOUND_CORRUPT)
}

/* A timeout, an abort, or a reader that leaves. */
inline give_up()
{
	d_step { has_source = 0; sending = 0; needs = 0; hungry = 0; read_all = 0 };
	withdraw();
	if
	:: result == WON_FREE ->
#ifndef NO_STREAM_QUARANTINE
		CHECK(source_untouched, put == 0);
#endif
		put_back()
	:: result == WON_ABANDONED ->
		shadow = IN_QUARANTINE;
#ifndef NO_CANCEL
		cancel = token;
#endif
		skip
	:: result == FOUND_DONE -> release()
	fi;
	result = WON_FREE
}

/* The worker has ended: the committed units are delivered, then the error. */
inline judge()
{
	if
	:: shadow == IN_FLIGHT || shadow == IN_STREAM ->
		withdraw();
		if
		:: result == WON_FREE -> CHECK(source_untouched, put == 0)
		:: result == FOUND_DONE && response_streams ->
			drain();
			CHECK(stream_whole, got == (failed -> made : DOWN))
		:: result == FOUND_DONE && !response_streams -> CHECK(own_response, answer == id)
		:: result == WON_ABANDONED && shadow == IN_STREAM ->
			drain();
			CHECK(committed_delivered, got == LINE(WORKER, SENT) && (!read_all || got == DOWN))
		:: else
		fi
	:: else
	fi
}

inline send()
{
	id++;
	d_step {
		BARRIER(CLIENT);
		reserve_finds_free = (state == FREE);
		assert(reserve_finds_free);
		state = WRITING;
#ifdef NO_GENERATION
		generation = 1;
#else
		generation++;
#endif
		token = generation
	};
	d_step { request = id; shadow = IN_FLIGHT };
#ifdef NO_CLAIM_FIRST
	sending = (UP > 0);
#else
	has_source = (UP > 0);
#endif
	swap(CLIENT, token, WRITING, READY);
	won = 0;
	tell(CLIENT)
}

proctype client()
{
	byte id, token;
	mtype shadow = AT_REST, word = FREE, result = WON_FREE;
	bit has_source, sending;
	byte giveups;
	FLOW_STATE;
	{
		do
		:: shadow == AT_REST && id == N -> break
		:: shadow == AT_REST && id < N && !gone[WORKER] -> send()
		:: d_step { hint[CLIENT] && BARRIER(CLIENT) -> hint[CLIENT] = 0 }; look()
		:: sending && !needs ->
			if
			:: put < UP -> flow_write(CLIENT, id)
			:: else -> buffer[CLIENT]!ENDED,END; sending = 0; tell(CLIENT)
			fi
		:: shadow == IN_STREAM && !hungry && !read_all -> flow_read(CLIENT, id)
		:: giveups < GIVEUPS && (shadow == IN_FLIGHT || shadow == IN_STREAM) -> giveups++; give_up()
		:: gone[WORKER] && BARRIER(WORKER) -> judge(); break
		od;
		skip;
		CHECK(ends_clean, gone[WORKER] || (state == FREE && LINE(CLIENT, SENT) == 0 && LINE(CLIENT, TAKEN) == 0));
		quit = 1
	} unless { killed[CLIENT]; gone[CLIENT] = 1 }
}

/* ---- memory, chance ---------------------------------------------------------------------------- */

proctype memory()
{
	byte field, value;
end:
	do
	:: atomic { buffer[CLIENT]?field,value -> LINE(CLIENT, field) = value; field = 0; value = 0 }
	:: atomic { buffer[WORKER]?field,value -> LINE(WORKER, field) = value; field = 0; value = 0 }
	od
}

init
{
	atomic { run memory(); run client(); run worker() };
#if KILLS > 0
	if
	:: killed[WORKER] = 1
	:: quit
	fi
#endif
#if CLIENT_KILLS > 0
	if
	:: killed[CLIENT] = 1
	:: quit
	fi
#endif
}
