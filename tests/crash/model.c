/*
 * What a guest may find in each sector after power loss: what it had flushed, or anything newer.
 */
#include "crash.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void model_init(struct model *m, uint64_t sectors, uint64_t room)
{
	*m = (struct model){
		.sectors = sectors, .room = room, .sizes = { sectors }, .size_count = 1
	};
	m->sector = xalloc(room * sizeof(*m->sector));
	for (uint64_t i = 0; i < room; i++)
		m->sector[i].count = 1; /* VALUE_ZERO */
}

void model_copy(struct model *to, const struct model *from)
{
	*to = *from;
	to->sector = xalloc(from->room * sizeof(*to->sector));
	memcpy(to->sector, from->sector, from->room * sizeof(*to->sector));
}

void model_free(struct model *m)
{
	free(m->sector);
	m->sector = NULL;
}

uint64_t model_hash(const struct model *m)
{
	uint64_t h = 0x2545f4914f6cdd1dull;

	for (unsigned i = 0; i < m->size_count; i++)
		h = (h ^ m->sizes[i]) * 0xff51afd7ed558ccdull;
	for (uint64_t s = 0; s < m->room; s++)
		for (unsigned i = 0; i < m->sector[s].count; i++) {
			h = (h ^ m->sector[s].legal[i] ^ s << 16) * 0xff51afd7ed558ccdull;
			h ^= h >> 29;
		}
	return h;
}

static void may(struct model_sector *s, uint16_t value)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->legal[i] == value)
			return;
	if (s->count == MODEL_VALUES)
		die("the model has no room: flush more often");
	s->legal[s->count++] = value;
}

void model_may(struct model *m, uint64_t at, uint64_t count, uint16_t value)
{
	for (uint64_t s = at; s < at + count; s++)
		may(&m->sector[s], value);
}

void model_is(struct model *m, uint64_t at, uint64_t count, uint16_t value)
{
	for (uint64_t s = at; s < at + count; s++) {
		m->sector[s].live = value;
		m->sector[s].discarded = false;
	}
}

/* The sector reads as zeroes or as before; the caller looks which. */
void model_discard(struct model *m, uint64_t at, uint64_t count)
{
	model_may(m, at, count, VALUE_ZERO);
	for (uint64_t s = at; s < at + count; s++)
		m->sector[s].discarded = true;
}

void model_grow(struct model *m, uint64_t sectors)
{
	if (sectors > m->room || m->size_count == ARRAY_SIZE(m->sizes))
		die("the model cannot grow so much");
	m->sizes[m->size_count++] = sectors;
}

void model_grown(struct model *m, uint64_t sectors)
{
	m->sectors = sectors;
}

void model_flushed(struct model *m)
{
	m->sizes[0] = m->sectors;
	m->size_count = 1;
	for (uint64_t i = 0; i < m->room; i++) {
		struct model_sector *s = &m->sector[i];

		if (s->discarded)
			continue;
		s->count = 1;
		s->legal[0] = s->live;
	}
}

/* Each eight bytes say which sector and which value they are. */
static uint64_t word_of(uint64_t sector, uint16_t value)
{
	return value ? (uint64_t)value << 48 | 0x5eed00000000ull | (sector & 0xffffffff) : 0;
}

void value_fill(void *bytes, uint64_t sector, uint64_t count, uint16_t value)
{
	for (uint64_t i = 0; i < count * SECTOR / 8; i++) {
		uint64_t word = word_of(sector + i * 8 / SECTOR, value);

		memcpy((uint8_t *)bytes + 8 * i, &word, 8);
	}
}

bool value_is(const uint8_t *bytes)
{
	uint64_t first, word;

	memcpy(&first, bytes, 8);
	for (unsigned i = 0; i < SECTOR; i += 8) {
		memcpy(&word, bytes + i, 8);
		if (word != first)
			return false;
	}
	return first >> 48 && first >> 48 != VALUE_BAD && (first >> 32 & 0xffff) == 0x5eed;
}

uint16_t value_read(const uint8_t *bytes, uint64_t sector)
{
	uint64_t first, word;
	uint16_t value;

	memcpy(&first, bytes, 8);
	value = (uint16_t)(first >> 48);
	if (value == VALUE_BAD)
		return VALUE_BAD;
	for (unsigned i = 0; i < SECTOR; i += 8) {
		memcpy(&word, bytes + i, 8);
		if (word != word_of(sector, value))
			return VALUE_BAD;
	}
	return value;
}
