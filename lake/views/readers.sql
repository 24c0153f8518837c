-- What only readers ask: what the serving models say, the runs, the shortcuts.

CREATE VIEW embeddings AS FROM embeddings_of({look_version});

-- Empty until a model was trained.
CREATE VIEW scores AS FROM scores_of({model_version});

-- A run that was taken for dead may have left a row of its own after all: that one counts. One that could not write
-- the catalogue after its row failed after all: its last row counts.
CREATE VIEW runs AS
    SELECT * FROM {runs}
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY status = 'crashed', finished_at DESC) = 1
    ORDER BY started_at;

CREATE MACRO most_positive(n := 10) AS TABLE
    SELECT image_key, product_id, polarity, positive_intensity, negative_intensity
    FROM scores ORDER BY logit DESC, image_key LIMIT n;

CREATE MACRO most_negative(n := 10) AS TABLE
    SELECT image_key, product_id, polarity, positive_intensity, negative_intensity
    FROM scores ORDER BY logit, image_key LIMIT n;

CREATE MACRO product_polarity() AS TABLE
    SELECT product_id, count(*) AS pictures, avg(polarity) AS polarity, min(polarity) AS lowest,
           max(polarity) AS highest, avg(positive_intensity) AS positive_intensity,
           avg(negative_intensity) AS negative_intensity
    FROM scores GROUP BY product_id ORDER BY polarity;

-- Exact search, picture by picture: the measure that the index is held against. Slow on a large catalogue.
CREATE MACRO similar_to(key, k := 10) AS TABLE
    SELECT others.image_key, others.product_id, scores.polarity,
           list_cosine_similarity(others.embedding, wanted.embedding) AS similarity
    FROM (SELECT CASE WHEN own IS NULL AND nearest IS NOT NULL
                      THEN error('no picture ' || coalesce(key, 'NULL') || ' has an embedding: did you mean ' || nearest)
                      ELSE own END AS embedding
          FROM (SELECT (SELECT embedding FROM embeddings WHERE image_key = key) AS own,
                       (SELECT arg_max(image_key, jaro_winkler_similarity(image_key, coalesce(key, '')))
                        FROM embeddings) AS nearest)) AS wanted
    CROSS JOIN embeddings AS others
    LEFT JOIN scores USING (image_key)
    WHERE others.image_key <> key ORDER BY similarity DESC, others.image_key LIMIT k;

CREATE MACRO polarity_changes(old_model, new_model) AS TABLE
    SELECT images.image_key, images.product_id, earlier.polarity AS old_polarity, later.polarity AS new_polarity,
           later.polarity - earlier.polarity AS change
    FROM images
    JOIN (SELECT sha256, arg_min(polarity, scored_at) AS polarity FROM score_history
          WHERE model_version = old_model GROUP BY sha256) AS earlier USING (sha256)
    JOIN (SELECT sha256, arg_min(polarity, scored_at) AS polarity FROM score_history
          WHERE model_version = new_model GROUP BY sha256) AS later USING (sha256)
    ORDER BY abs(later.polarity - earlier.polarity) DESC, image_key;
