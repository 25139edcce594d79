/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the first bytes are read, the ALPN offers' vectors are united, and the loops keep their state. What is kept in a
 * map is any number to the verifier each time it is read, so that a loop's second round is like its third; on the stack
 * it would follow each round's numbers. Nothing interrupts a program with another one of its kind on the same processor,
 * since they run with bottom halves off.
 */
#ifndef PODLANE_SCRATCH_H
#define PODLANE_SCRATCH_H

#include "types.h"

#define WORDS 16 /* 1,024 matches */
#define MOST_BYTES 4096
#define POSITION (MOST_BYTES - 1)
#define KEPT_NAME 64
#define BEHIND 8 /* bytes that a word may reach behind the last position */

struct vector {
	__u64 words[WORDS];
};

struct hashing {
	__u64 first, second;
	__u32 key_1, key_2;
	__u32 at, length, label;
	__u32 sni, host, service;
	__u32 bad;
};

struct extensions {
	__u32 at, end;
	__u32 name, name_length; /* where the names are in the hello; 0 for none */
	__u32 offers, offers_end;
	__u32 bad, whole;
};

struct offers {
	__u32 at, end;
	__u32 bad, whole;
};

struct head {
	__u32 length, at, phase, method;
	__u32 hosts, host; /* how many, and where the value of one begins */
	__u32 whole;
};

struct host {
	__u32 at, phase, name, length;
	__u32 good;
};

/* What user space is shown, with the data behind it; beginnings.py reads it. */
struct beginning {
	__u64 cookie; /* of the flow */
	__u64 origin; /* whose share of the ring it takes */
	__u32 first_byte, sequence; /* of the connection, and of this data */
	__u32 source[4], destination[4];
	__u16 source_port, destination_port;
	__u16 length;
	__u8 inbound, lost;
	__u32 lane; /* whose */
	__u8 udp, class_id; /* a datagram, of a flow that has this class; 0: none yet */
	__u16 zero;
};

struct scratch {
	struct vector alpn;
	struct hashing hashing;
	struct extensions extensions;
	struct offers offers;
	struct head head;
	struct host host;
	struct beginning beginning __attribute__((aligned(8))); /* the data has to follow */
	__u8 data[MOST_BYTES + BEHIND] __attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch_memory(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

/* What bpf_loop() hands to each round: it has to be on the stack. */
struct round {
	struct scratch *scratch;
};

#define BYTE(scratch, at) ((scratch)->data[(at) & POSITION])

/* Eight bytes, at any place: the processors for which programs are compiled read them at once. */
#define WORD_AT(scratch, at) (*(__u64 *)((scratch)->data + ((at) & POSITION)))

#define LOW_BITS 0x0101010101010101ULL
#define HIGH_BITS 0x8080808080808080ULL
/* The high bits of the bytes that are zero, or below a small number; the lowest that is set is right, those above it need
 * not be. */
#define ZERO_IN(word) (((word) - LOW_BITS) & ~(word) & HIGH_BITS)
#define BELOW_IN(word, number) (((word) - LOW_BITS * (number)) & ~(word) & HIGH_BITS)

/* How many bytes stand before the lowest whose high bit is set; 8 if none is. */
static __always_inline __u32 bytes_before(__u64 high_bits)
{
	__u64 lowest = (high_bits & -high_bits) >> 7;

	return ((lowest - 1) & LOW_BITS) * LOW_BITS >> 56;
}

static __always_inline __u32 two_bytes(struct scratch *scratch, __u32 at)
{
	return (__u32)BYTE(scratch, at) << 8 | BYTE(scratch, at + 1);
}

#endif
