/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names by hash. Two polynomials over the field of 2^31 - 1 elements, with keys that are drawn at random, are computed
 * from the name's last byte to its first; so at each dot the hash is that of the domain behind it, where a wildcard may
 * be. Whoever does not know the keys cannot make two names collide. policy_maps.py computes the same.
 */
#ifndef PODLANE_NAMES_H
#define PODLANE_NAMES_H

#include "policy.h"

#define PRIME 2147483647ULL
#define WILDCARD (1ULL << 63)
#define MOST_NAME 253
#define MOST_LABEL 63

static __always_inline __u64 modulo(__u64 value)
{
	value = (value & PRIME) + (value >> 31);
	return (value & PRIME) + (value >> 31);
}

static __always_inline void take(struct hashing *name, __u8 byte)
{
	name->first = modulo(name->first * name->key_1 + byte);
	name->second = modulo(name->second * name->key_2 + byte);
}

/* One byte of a name. Returns 0 if it may not be there. */
static __always_inline int name_byte(struct hashing *name, __u8 byte)
{
	if (byte >= 'A' && byte <= 'Z')
		byte |= 0x20;
	if (byte == '.') {
		__u64 key = WILDCARD | name->first << 31 | name->second;
		struct name_vectors *found = bpf_map_lookup_elem(&names, &key);

		if (!name->label)
			return 0;
		name->label = 0;
		if (found) {
			name->sni = found->sni;
			name->host = found->host;
			name->service = found->service;
		}
	} else if ((byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '_') {
		if (++name->label > MOST_LABEL)
			return 0;
	} else {
		return 0;
	}
	take(name, byte);
	return 1;
}

#define BYTES_A_STEP 4 /* calls are what takes time */

static long name_step(__u32 i, struct round *round)
{
	struct hashing *name = &round->scratch->hashing;

#pragma clang loop unroll(full)
	for (int j = 0; j < BYTES_A_STEP; j++) {
		if (!name->length)
			return 1;
		name->length--;
		if (!name_byte(name, BYTE(round->scratch, name->at + name->length))) {
			name->bad = 1;
			return 1;
		}
	}
	return 0;
}

static __always_inline void begin_hash(struct scratch *scratch, const struct settings *settings, __u32 at, __u32 length)
{
	struct hashing *name = &scratch->hashing;

	name->first = name->second = 0;
	name->key_1 = settings->key_1;
	name->key_2 = settings->key_2;
	name->at = at;
	name->length = length;
	name->label = name->bad = 0;
	name->sni = NO_NAME;
	name->host = NO_CONTENT;
	name->service = UNKNOWN_SERVICE;
}

/* What the name at this place of the scratch memory satisfies. Returns 0 if it is none in plain form. */
__noinline int look_up_name(__u32 at, __u32 length, struct name_vectors *satisfied)
{
	struct settings *settings = settings_in_force();
	struct round round = { scratch_memory() };
	struct name_vectors *found;
	struct hashing *name;
	__u64 key;

	if (!settings || !round.scratch || !satisfied)
		return 0;
	if (length && BYTE(round.scratch, at + length - 1) == '.') /* the root */
		length--;
	if (!length || length > MOST_NAME)
		return 0;
	begin_hash(round.scratch, settings, at, length);
	bpf_loop(MOST_NAME / BYTES_A_STEP + 1, name_step, &round, 0);
	name = &round.scratch->hashing;
	if (name->bad || !name->label)
		return 0;
	key = name->first << 31 | name->second;
	found = bpf_map_lookup_elem(&names, &key);
	satisfied->sni = found ? found->sni : name->sni;
	satisfied->host = found ? found->host : name->host;
	satisfied->service = found ? found->service : name->service;
	return 1;
}

#endif
