-- Where rows lie, for the tasks that read them in bulk. In braces: a table's committed files, each row with its
-- filename and file_row_number.

-- Where one look model's embeddings lie, whether their pictures live or not. As in embeddings_of, the first of a
-- content counts.
CREATE MACRO located_embeddings(look) AS TABLE
    SELECT sha256, place.url AS url, place.row AS row
    FROM (SELECT sha256, min({{'at': embedded_at, 'url': filename, 'row': file_row_number}}) AS place
          FROM {embeddings} WHERE look_version = look GROUP BY sha256);

-- Where the pixels of the live pictures lie.
CREATE VIEW stored_pictures AS
    WITH stored AS (
        SELECT image_key, sha256, ingested_at, filename AS url, file_row_number AS row
        FROM {images} WHERE status = 'ok' AND NOT coalesce(pixels_elsewhere, false)
    )
    SELECT image_key, stored.sha256, url, row FROM stored JOIN images USING (image_key, ingested_at)
    UNION ALL
    SELECT known.image_key, known.sha256, url, row
    FROM known_images AS known JOIN pixel_rows USING (sha256)
    JOIN stored ON stored.image_key = held_by AND stored.ingested_at = held_at
    WHERE known.status = 'ok' AND known.pixels_elsewhere;

-- Every picture that was ever decoded, as it was last: a label stays of use when the shop drops the product.
CREATE VIEW decoded_ever AS
    SELECT history.* FROM image_history AS history
    JOIN (SELECT image_key, max(ingested_at) AS ingested_at FROM image_history WHERE status = 'ok'
          GROUP BY image_key) USING (image_key, ingested_at);

CREATE VIEW pictures_ever AS
    SELECT stored.image_key, stored.sha256, stored.product_id, stored.pixels
    FROM {images} AS stored JOIN decoded_ever USING (image_key, ingested_at)
    WHERE NOT coalesce(stored.pixels_elsewhere, false)
    UNION ALL
    SELECT repeated.image_key, repeated.sha256, repeated.product_id, stored.pixels
    FROM decoded_ever AS repeated JOIN pixel_rows USING (sha256)
    JOIN {images} AS stored ON stored.image_key = held_by AND stored.ingested_at = held_at
    WHERE repeated.pixels_elsewhere;
