/*
 * ring.pml - one ring of the fleet and its sleepers, as built in csrc/ring.c. fleet.pml has the
 * members, the lock and the waking, and says how to read both. test/model/check.ts runs it through
 * spin; test/model.test.ts compares its points with the points of the C code.
 *
 * Left out: cursors that begin at a position or at the oldest event, batches with a limit.
 */

#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef EVENTS
#define EVENTS 1 /* events of each writer */
#endif
#ifndef RING
#define RING 2 /* frames */
#endif
#ifndef PARTS
#define PARTS 1 /* an event has one frame or PARTS frames */
#endif
#ifndef SLEEP
#define SLEEP 0 /* 1: readers park when the ring has no news; a frame is written or read in one step */
#endif
#ifndef LATE
#define LATE 0 /* 1: readers begin at the head, at any time */
#endif
#ifndef KILLS
#define KILLS 0 /* deaths of writers */
#endif
#ifndef READER_KILLS
#define READER_KILLS 0
#endif
#ifndef JOINS
#define JOINS 0 /* members that take the index of a dead writer and publish one event or none */
#endif

#define MEMBERS (WRITERS + READERS)
#define MOST (WRITERS * EVENTS + JOINS) /* events */

#define repair() ring_repair()
#include "fleet.pml"

hidden byte numbers_in_order, event_whole, lost_is_overwritten, conserved, stands_right;

byte head, events;
byte seq[RING], event[RING], shape[RING], payload[RING];
#define AT(n) ((n) % RING)
#define ODD(n) (2 * (n) + 1)
#define EVEN(n) (2 * (n) + 2)
#define SHAPE(parts, part) ((parts) * 4 + (part))

byte writing = WRITERS; /* initial writers that still publish */
byte joins, going = WRITERS;
bit chance_over;
#define QUIET (going == 0 && chance_over)

/* Shadow: the published events, and how far frames were begun. */
byte published, begun;
byte log_at[MOST], log_payload[MOST];

/* ---- writers ----------------------------------------------------------------------------------- */

#define F AT(n + part)

inline store_field(which)
{
	d_step {
		if
		:: which == 0 -> event[F] = number
		:: which == 1 -> shape[F] = SHAPE(parts, part)
		:: which == 2 -> payload[F] = id
		fi
	}
}

/* Stores the fields and the event counter, which no fence orders, in any order. */
inline write_frame()
{
	d_step {
		if
		:: begun < n + part + 1 -> begun = n + part + 1
		:: else
		fi
	};
#if SLEEP
	d_step { store_field(0); store_field(1); store_field(2); seq[F] = EVEN(n + part) };
#else
	left = 7;
#ifdef NO_FRAME_FENCE
	left = 15; /* 8: seq odd */
#else
#ifndef NO_FRAME_ODD
	seq[F] = ODD(n + part);
#endif
#endif
	/* step: ring.frame.begun */
	do
	:: left & 1 -> store_field(0); left = left - 1
	:: left & 2 -> store_field(1); left = left - 2
	:: left & 4 -> store_field(2); left = left - 4
#ifdef NO_FRAME_FENCE
	:: left & 8 -> seq[F] = ODD(n + part); left = left - 8
#endif
	:: !counted && part == parts - 1 -> events = number + 1; counted = 1
	:: left == 0 -> break
	od;
	/* step: ring.frame.filled */
	seq[F] = EVEN(n + part);
#endif
	/* step: ring.frame.written */
}

inline move_head()
{
	d_step {
		log_at[published] = n; log_payload[published] = id;
		numbers_in_order = (number == published);
		assert(numbers_in_order);
		published++;
		head = n + parts
	}
}

inline publish()
{
	/* step: ring.publish.before */
#ifdef NO_LOCK_BEFORE_WAKE
	looked = (parked != 0);
#endif
	fleet_lock();
	/* step: ring.publish.locked */
	d_step { n = head; number = events; part = 0; counted = 0; id = 1 + me * 8 + my_life * 4 + made; made++ };
	if
	:: parts = 1
#if PARTS > 1
	:: parts = PARTS
#endif
#ifdef NO_QUARTER
	:: parts = RING
#endif
	fi;
#ifdef NO_HEAD_LAST
	move_head();
#endif
	do
	:: part < parts -> write_frame(); part++
	:: else -> break
	od;
	skip;
	part = 0;
	if
	:: !counted -> events = number + 1
	:: else
	fi;
	/* step: ring.publish.counted */
#ifdef NO_LOCK_BEFORE_WAKE
	if
	:: looked -> fleet_wake()
	:: else
	fi;
	looked = 0;
#else
#ifndef NO_WAKE_FIRST
	fleet_wake();
#endif
#endif
	/* step: ring.publish.woken */
#ifndef NO_HEAD_LAST
	move_head();
#endif
	/* step: ring.publish.published */
	fleet_unlock();
	/* step: ring.publish.unlocked */
#ifdef NO_WAKE_FIRST
	fleet_wake();
#endif
	d_step { n = 0; number = 0; parts = 0; counted = 0; id = 0 }
}

/* Frames at and after the head are not published. "events" may be one ahead. No frame changes: the
 * lock is held. */
inline ring_repair()
{
	/* step: ring.repair.before */
#ifndef NO_REPAIR_EVENTS
	d_step {
		if
		:: head == 0 -> events = 0
		:: head > 0 && seq[AT(head - 1)] == EVEN(head - 1) -> events = event[AT(head - 1)] + 1
		:: else
		fi
	};
#endif
	skip
	/* step: ring.repair.after */
}

inline is_over()
{
	d_step {
		going--;
		if
		:: my_life == 0 -> writing--
		:: else
		fi
	}
}

proctype writer(byte me; bit my_life)
{
	byte n, number, parts, part, left, id, made, seen, i;
	bit won, counted, looked;
	{
		if
		:: my_life == 0 ->
			do
			:: made < EVENTS -> publish()
			:: else -> break
			od
		:: else ->
			take_index();
			if
			:: true -> publish()
			:: true -> writing == 0 /* does nothing and lives on */
			fi
		fi;
		made = 0;
		is_over()
	} unless {
		killed[me];
		is_gone();
		d_step {
			n = 0; number = 0; parts = 0; part = 0; left = 0; id = 0; made = 0; counted = 0; looked = 0
		};
		is_over()
	}
}

/* ---- readers ----------------------------------------------------------------------------------- */

#define HERE AT(position + got_part)
#define IS_WHOLE (seq[HERE] == EVEN(position + got_part))

/* Reads number and shape of the frame at the position between two reads of its sequence number. */
inline read_head()
{
	copied = IS_WHOLE;
	if
	:: copied ->
#ifdef NO_LOOK_FENCE
		copied = IS_WHOLE;
#endif
#ifndef NO_LOOK_FIRST
		got_event = event[HERE];
		got_shape = shape[HERE];
#endif
#if !defined(NO_LOOK_FENCE) && !defined(NO_SECOND_LOOK)
		copied = IS_WHOLE
#else
		skip
#endif
	:: else
	fi
}

#ifdef NO_EACH_PART
#define LOOKS (got_part == 0)
#else
#define LOOKS true
#endif

inline copy_payload()
{
	do
	:: copied && got_part < got_shape / 4 ->
		copied = (!LOOKS || IS_WHOLE);
		if
		:: copied ->
#ifdef NO_LOOK_FENCE
			copied = IS_WHOLE;
#endif
#ifdef NO_LOOK_FIRST
			whole = whole && got_payload == expected;
#else
			whole = whole && payload[HERE] == expected;
#endif
#if !defined(NO_LOOK_FENCE) && !defined(NO_SECOND_LOOK)
			copied = (!LOOKS || IS_WHOLE)
#else
			skip
#endif
		:: else
		fi;
		got_part++
	:: else -> break
	od;
	got_part = 0
}

#ifdef NO_HEAD_BOUND
#define BELOW_HEAD true
#else
#define BELOW_HEAD (position + got_shape / 4 <= end)
#endif

/* Lost events are the overwritten events. */
inline count_lost(until)
{
	d_step {
		if
		:: until > my_event ->
			lost_is_overwritten = (log_at[until - 1] + RING < begun);
			assert(lost_is_overwritten);
#ifdef NO_EVENT_NUMBERS
			lost = lost + 1
#else
			lost = lost + until - my_event
#endif
		:: else
		fi
	}
}

inline copy_event()
{
	read_head();
	if
	:: copied && got_shape % 4 == 0 && got_shape != 0 && BELOW_HEAD ->
		d_step {
			event_whole = (got_event < MOST);
			assert(event_whole);
			expected = log_payload[got_event]; whole = (log_at[got_event] == position)
		};
		copy_payload();
		if
		:: copied ->
			CHECK(event_whole, whole && got_event < published);
			count_lost(got_event);
			d_step {
				received++; position = position + got_shape / 4; my_event = got_event + 1
			}
		:: else
		fi
	:: else -> copied = 0
	fi;
	d_step { got_event = 0; got_shape = 0; expected = 0; whole = 0 }
}

/* Finds the number of the next event from the frame before "end". */
inline next_event()
{
	d_step { i = position; position = end - 1 };
	read_head();
	d_step { position = i; i = 0; got_shape = 0; got_event++ }
}

inline count_all_lost()
{
	next_event();
	if
	:: copied -> count_lost(got_event); my_event = got_event
	:: else
	fi;
	got_event = 0
}

inline poll()
{
#if SLEEP
	d_step { position = head; my_event = published; received = published }
#else
#ifdef NO_LOOK_FIRST
	d_step { got_event = event[HERE]; got_shape = shape[HERE]; got_payload = payload[HERE] };
#endif
	end = head;
#ifdef NO_HEAD_BOUND
	end = end + 1;
#endif
	do
	:: position < end ->
		copy_event();
		if
		:: copied -> records = 1
		:: !copied && records -> break
		:: else ->
			d_step {
				i = (head > end -> head : end);
				i = (i > RING -> i - RING : 0);
				position = (position + 1 > i -> position + 1 : i);
				position = (position > end -> end : position);
				i = 0
			};
			if
			:: position == end -> count_all_lost()
			:: else
			fi
		fi
	:: else -> break
	od;
	skip;
	d_step { records = 0; copied = 0; end = 0 }
#endif
}

inline stand_at_head()
{
	do
	:: end = head;
		if
		:: end == 0 -> copied = 1; got_event = 0
		:: else -> next_event()
		fi;
		if
		:: copied -> break
		:: else -> got_event = 0
		fi
	od;
	skip;
	d_step { position = end; my_event = got_event; base = got_event; got_event = 0; copied = 0; end = 0 };
	CHECK(stands_right, (my_event == 0 && position == 0) || log_at[my_event - 1] < position);
	CHECK(stands_right, my_event == published || log_at[my_event] == position)
}

/* [sleep] store "parked", then check the lock, then the head. */
inline park()
{
	do
	::
		/* step: ring.park.before */
#ifndef NO_PARK_FIRST
		parked = 1;
#endif
		/* step: ring.park.stored */
#ifdef NO_LOCK_THEN_HEAD
		moved = (head != position);
		seen = lock;
#else
		seen = lock;
		moved = (head != position);
#endif
#ifdef NO_PARK_LOCK
		seen = 0;
#endif
		if
		:: moved -> break
		:: !moved && seen == 0 ->
#ifdef NO_PARK_FIRST
			parked = 1;
#endif
#ifdef NO_TICKET
			changed[me] = 0;
#endif
			/* the futex compares and sleeps */
			d_step { asleep[me] = !changed[me] };
			if
			:: !asleep[me] -> changed[me] = 0
			:: asleep[me] && QUIET && position == head -> asleep[me] = 0; over = 1
			fi;
			break
		:: !moved && seen != 0 ->
			if
			:: LIVES(seen) -> (lock != seen || !LIVES(seen))
#ifdef NO_PARK_TAKE_OVER
			:: !LIVES(seen) -> (lock != seen)
#else
			:: !LIVES(seen) ->
				take_lock_of_the_dead();
				if
				:: won -> won = 0; enter(); ring_repair(); fleet_unlock()
				:: else
				fi
#endif
			fi;
			seen = 0
		fi
	od;
	skip;
	d_step { moved = 0; seen = 0 }
}

proctype reader(byte me)
{
	byte position, my_event, base, received, lost, end, got_event, got_shape, got_payload, got_part;
	byte expected, seen, i;
	bit copied, whole, records, moved, won, over, my_life;
	{
#if LATE
		stand_at_head();
#endif
		do
		:: over -> break
		:: !over && position != head -> poll()
		:: !over && position == head ->
#if SLEEP
			park()
#else
			if
			:: position != head
			:: QUIET && position == head -> over = 1
			fi
#endif
		od;
		skip;
		CHECK(conserved, my_event == published && received + lost == published - base)
	} unless {
		killed[me];
		is_gone();
		d_step {
			position = 0; my_event = 0; base = 0; received = 0; lost = 0; end = 0; got_event = 0;
			got_shape = 0; got_payload = 0; got_part = 0; expected = 0; copied = 0; whole = 0; records = 0; moved = 0;
			over = 0
		}
	}
}

/* ---- chance ------------------------------------------------------------------------------------ */

proctype chance()
{
	byte kills, reader_kills;
	do
	:: d_step { kills < KILLS && held[0] -> kills++; killed[0] = 1 }
#if WRITERS > 1 && KILLS > 1
	:: d_step { kills < KILLS && held[1] -> kills++; killed[1] = 1 }
#endif
	:: d_step { reader_kills < READER_KILLS && held[WRITERS] -> reader_kills++; killed[WRITERS] = 1 }
#if JOINS > 0
	:: d_step { joins < JOINS && gone[0] -> joins++; going++; gone[0] = 0 }; run writer(0, 1)
#endif
	:: break
	od;
	chance_over = 1
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
			:: i < WRITERS -> run writer(i, 0)
			:: else -> run reader(i)
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		run chance()
	}
}
