-- The tables' current state: what readers and tasks both ask. In braces: a table's committed files.

CREATE VIEW image_history AS
    SELECT image_key, etag, size_bytes, last_modified, sha256, width, height, format, product_id, status, reason,
           pixels_elsewhere, ingested_at
    FROM {images};

-- The newest row of each key; a tombstone is newer than what it buries.
CREATE VIEW newest_images AS
    SELECT history.* FROM image_history AS history
    JOIN (SELECT image_key, max(ingested_at) AS ingested_at FROM image_history GROUP BY image_key)
    USING (image_key, ingested_at);

-- What is known of each key: an object that can't be read stays the picture that it was when it could be.
CREATE VIEW known_images AS
    SELECT history.* FROM image_history AS history
    JOIN (SELECT image_key, max(ingested_at) AS ingested_at FROM image_history WHERE status <> 'unreadable'
          GROUP BY image_key)
    USING (image_key, ingested_at);

CREATE VIEW images AS SELECT * EXCLUDE (pixels_elsewhere) RENAME (reason AS remark) FROM known_images WHERE status = 'ok';

CREATE VIEW rejected AS
    SELECT image_key, reason, size_bytes, etag, last_modified, ingested_at
    FROM known_images WHERE status = 'rejected';

-- What the store refused to hand out when it was last asked; it is asked again every night.
CREATE VIEW unreadable AS
    SELECT newest.image_key, newest.reason, newest.size_bytes, newest.etag, newest.last_modified,
           coalesce(known.status = 'ok', false) AS is_shown, newest.ingested_at
    FROM newest_images AS newest LEFT JOIN known_images AS known USING (image_key) WHERE newest.status = 'unreadable';

-- A content's pixels are stored once. Of those that came again, the row that holds them.
CREATE VIEW pixel_rows AS
    SELECT sha256, place.key AS held_by, place.at AS held_at
    FROM (SELECT sha256, min({{'at': ingested_at, 'key': image_key}}) AS place FROM image_history
          WHERE status = 'ok' AND NOT coalesce(pixels_elsewhere, false)
            AND sha256 IN (SELECT sha256 FROM image_history WHERE pixels_elsewhere)
          GROUP BY sha256);

CREATE VIEW pixels AS
    SELECT stored.image_key, stored.sha256, stored.pixels
    FROM {images} AS stored JOIN images USING (image_key, ingested_at)
    WHERE NOT coalesce(stored.pixels_elsewhere, false)
    UNION ALL
    SELECT known.image_key, known.sha256, stored.pixels
    FROM known_images AS known JOIN pixel_rows USING (sha256)
    JOIN {images} AS stored ON stored.image_key = held_by AND stored.ingested_at = held_at
    WHERE known.status = 'ok' AND known.pixels_elsewhere;

CREATE VIEW embedding_history AS
    SELECT sha256, look_version::INTEGER AS look_version, embedding, embedded_at FROM {embeddings};

-- How one look model sees the live pictures. Two runs may have embedded the same content; the first counts.
CREATE MACRO embeddings_of(look) AS TABLE
    SELECT images.image_key, images.product_id, history.*
    FROM embedding_history AS history
    JOIN (SELECT sha256, min(embedded_at) AS embedded_at FROM embedding_history
          WHERE look_version = look GROUP BY sha256) USING (sha256, embedded_at)
    JOIN images USING (sha256)
    WHERE history.look_version = look;

CREATE VIEW score_history AS
    SELECT sha256, model_version::INTEGER AS model_version, polarity, logit, label, positive_intensity,
           negative_intensity, scored_at
    FROM {scores};

-- What one model says of the live pictures. As of embeddings, the first score of a content counts.
CREATE MACRO scores_of(model) AS TABLE
    SELECT images.image_key, images.product_id, history.*
    FROM score_history AS history
    JOIN (SELECT sha256, min(scored_at) AS scored_at FROM score_history
          WHERE model_version = model GROUP BY sha256) USING (sha256, scored_at)
    JOIN images USING (sha256)
    WHERE history.model_version = model;
